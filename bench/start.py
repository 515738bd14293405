"""The first call and the memory of a network, ours beside ONNX Runtime. Out: JSON and a table.

Each row is a process of its own: imports, the model (built, or read from its file), the first call, twenty more. Ours
runs three times with one folder for machine code: it is empty, then warm, then the saved program runs without PyTorch,
which is how ONNX Runtime runs. Memory is resident memory, whole pages of shared libraries counted. Written by
``engine.py --prepare`` before: what ONNX Runtime reads. From the repository:

    python bench/start.py --peers /path/to/python-with-onnxruntime
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NETWORKS = ("mobilenet_v1", "mobilenet_v2", "resnet50")
WAYS = {
    "separable, empty cache": "separable",
    "separable, warm cache": "separable",
    "separable, saved program": "saved",
    "onnxruntime": "onnxruntime",
}
CALLS = 20
MEGABYTE = 1e6


def memory() -> dict[str, int]:
    """Bytes resident now, and the most so far in this process (``ru_maxrss`` would count who started it, too)."""
    lines = (line.split() for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    held = {words[0]: int(words[1]) * 1024 for words in lines if words[0] in ("VmRSS:", "VmHWM:")}
    return {"now": held["VmRSS:"], "most": held["VmHWM:"]}


def child(runtime: str, name: str, threads: int, path: Path) -> dict[str, Any]:
    """One row, in the process that is measured."""
    begin = time.perf_counter()
    if runtime == "separable":
        import torch

        import separable.engine
        from separable import models
    elif runtime == "saved":
        import numpy as np

        import separable.runtime
    else:
        import numpy as np
        import onnxruntime
    imported, after_imports = time.perf_counter(), memory()["now"]
    if runtime == "separable":
        torch.set_num_threads(threads)
        model, x = models.build(name).eval(), models.example(name)
        built, after_model = time.perf_counter(), memory()["now"]
        program = separable.compile(model, x, threads=threads)

        def run() -> object:
            return program(x)
    elif runtime == "saved":
        image = np.ones((1, 3, 224, 224), np.float32)
        built, after_model = time.perf_counter(), memory()["now"]
        session = separable.load(path, threads=threads)

        def run() -> object:
            return session(image)
    else:
        image = np.ones((1, 3, 224, 224), np.float32)
        built, after_model = time.perf_counter(), memory()["now"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def run() -> object:
            return session.run(None, {session.get_inputs()[0].name: image})

    run()
    first = time.perf_counter()
    for _ in range(CALLS):
        run()
    after = memory()
    if runtime == "separable":
        program.save(path)
    return {
        "threads": threads,
        "imports_s": imported - begin,
        "model_s": built - imported,
        "first_call_s": first - built,
        "imports_bytes": after_imports,
        "model_bytes": after_model - after_imports,
        "resident_bytes": after["now"],
        "peak_bytes": after["most"],
    }


def row(runtime: str, name: str, options: argparse.Namespace, cache: str) -> dict[str, Any]:
    """A process started for it, and what it said."""
    from engine import export_path

    is_peer = runtime == "onnxruntime"
    path = export_path(name, 1).with_suffix(".onnx") if is_peer else Path(cache) / "program.safetensors"
    python = options.peers if is_peer else sys.executable
    command = [python, __file__, "--child", runtime, name, str(options.threads), str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "SEPARABLE_CACHE": cache}
    answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Seconds and megabytes, a row a process."""
    head = (
        "# The first call, and the memory of a network\n\nOne 224×224 image. First call: compiling (or making the "
        "session) and the first output, imports and the building of the model apart. Peak: the most resident memory "
        f"of the whole process over {CALLS} more calls; added: that less what was resident after the imports, and how "
        "much of it PyTorch took to build the model, before anything was compiled (a saved program and ONNX Runtime "
        "read a file).\n\n"
        "| network | runtime | imports, s | model, s | first call, s | after imports, MB | resident, MB | peak, MB | "
        "added, MB | of it PyTorch's model, MB |\n|---|---|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {r['network']} | {r['runtime']} | {r['imports_s']:.2f} | {r['model_s']:.2f} | {r['first_call_s']:.2f} | "
        f"{r['imports_bytes'] / MEGABYTE:.0f} | {r['resident_bytes'] / MEGABYTE:.0f} | "
        f"{r['peak_bytes'] / MEGABYTE:.0f} | {(r['peak_bytes'] - r['imports_bytes']) / MEGABYTE:.0f} | "
        f"{r['model_bytes'] / MEGABYTE:.0f} |\n"
        for r in rows
    )


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        runtime, name, threads, path = sys.argv[2:]
        print(json.dumps(child(runtime, name, int(threads), Path(path))))
        return
    from places import of_this_processor

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", default=sys.executable, help="a Python that has ONNX Runtime installed")
    parser.add_argument("--out", type=Path, default=of_this_processor("start"))
    options = parser.parse_args()
    for name in options.networks:
        with tempfile.TemporaryDirectory() as cache:
            rows = [
                {"network": name, "runtime": said, **row(runtime, name, options, cache)}
                for said, runtime in WAYS.items()
            ]
        keep(options.out, rows)
    print(options.out.with_suffix(".md").read_text(encoding="utf-8"))


def keep(path: Path, rows: list[dict[str, Any]]) -> None:
    """Puts a network's rows in the place of its older ones, and writes the table beside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    others = [r for r in held if r["network"] != rows[0]["network"]]
    rows = sorted([*others, *rows], key=lambda r: NETWORKS.index(r["network"]))
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
