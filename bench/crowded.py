"""MobileNetV2 on a crowded machine. In: threads, busy neighbours. Out: JSON and a table.

Each runtime is a process of its own and prepares the network while the machine is quiet; then so many other processes
compute without end, and samples are taken in rounds, one of each runtime in turn. More threads than cores are a crowd
of a runtime's own: so it runs where a container gives less than the processor has. Run from the repository:

    python bench/crowded.py --peers /path/to/python-with-the-peers
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from engine import SUBJECTS, export, export_path, prepare, start, versions

RUNTIMES = ("separable", "onnxruntime", "openvino", "eager")
CASES = ((2, 0), (3, 0), (8, 0), (2, 1), (2, 2))  # threads of each runtime, neighbours
NETWORK = "mobilenet_v2"
FORWARDS = 8
HEAD = (
    "# MobileNetV2 on a crowded machine\n\n"
    f"Milliseconds a forward of one 224×224 image on {{cores}} cores: median (worst) of {{rounds}} means of {FORWARDS} "
    "forwards, taken in turns. A neighbour is a process that computes without end.\n\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="a Python that has the peers installed")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "crowded.json")
    options = parser.parse_args()
    make, shape = SUBJECTS[NETWORK]
    path = export_path(NETWORK, 1)
    export(make, (1, *shape), path)
    prepare([path], RUNTIMES, options.peers)
    results = [measured(path, *case, options) for case in CASES]
    facts = {"cpu": llvm.get_host_cpu_name(), "cores": os.cpu_count(), "peers": versions(options.peers)}
    options.out.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n", encoding="utf-8")
    head = HEAD.format(cores=facts["cores"], rounds=options.rounds)
    options.out.with_suffix(".md").write_text(head + table(results), encoding="utf-8")


def measured(path: Path, threads: int, neighbours: int, options: argparse.Namespace) -> dict[str, Any]:
    """Samples of every runtime, in seconds."""
    runtimes = [start(name, [path], threads, options.peers) for name in RUNTIMES]
    for runtime in runtimes:
        runtime.load(0)
        runtime.sample(0, FORWARDS)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbours)]
    samples: dict[str, list[float]] = {runtime.name: [] for runtime in runtimes}
    for _ in range(options.rounds):
        for runtime in runtimes:
            samples[runtime.name].append(runtime.sample(0, FORWARDS))
    for process in [*busy, *(runtime.process for runtime in runtimes)]:
        process.kill()
        process.wait()
    result = {"threads": threads, "neighbours": neighbours, "samples": samples}
    print(row(result), flush=True)
    return result


def row(result: dict[str, Any]) -> str:
    """One line of the table."""
    times = [
        f"{1e3 * statistics.median(samples):.1f} ({1e3 * max(samples):.0f})" for samples in result["samples"].values()
    ]
    return f"| {result['threads']} | {result['neighbours']} | {' | '.join(times)} |"


def table(results: list[dict[str, Any]]) -> str:
    """A line a case."""
    head = f"| threads | neighbours | {' | '.join(RUNTIMES)} |\n|{'---|' * (len(RUNTIMES) + 2)}\n"
    return head + "\n".join(map(row, results)) + "\n"


if __name__ == "__main__":
    main()
