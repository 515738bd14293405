"""Whole networks on the engine against other runtimes. In: networks, batches, threads. Out: JSON and a table.

Each runtime is a process of its own; samples are taken in rounds, one of each runtime in turn, so that what disturbs
the machine disturbs all alike. All samples are kept. Run from the repository:

    python bench/engine.py --peers /path/to/python-with-the-peers --out bench/results/engine.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import torch

from separable import models
from separable.cost import this_machine

RUNTIMES = Path(__file__).with_name("runtimes.py")
OURS = ("separable", "eager", "inductor")
NETWORKS = {
    "mobilenet_v1": lambda: models.mobilenet_v1(),
    "mobilenet_v2": lambda: models.mobilenet_v2(),
    "mobilenet_v2_half": lambda: models.mobilenet_v2(width=0.5),
    "resnet50": lambda: models.resnet50(),
}
ROUND_S = 0.15


@dataclass
class Runtime:
    """A process that runs networks, one after the other."""

    name: str
    process: subprocess.Popen[str]
    samples: list[float] = field(default_factory=list)
    error: float = float("nan")
    first_s: float = float("nan")
    peak_bytes: int = 0

    def load(self, which: int) -> bool:
        """Prepares a network; False when the runtime cannot run it."""
        answer = self._ask(f"load {which}")
        if answer is not None:
            self.error, self.first_s = answer
        return answer is not None

    def sample(self, which: int, count: int) -> float:
        """Mean seconds of ``count`` forwards, kept among the samples."""
        answer = self._ask(f"run {which} {count}")
        if answer is None:
            raise SystemExit(f"{self.name} ended with exit code {self.process.wait()}")
        self.samples.append(answer[0])
        self.peak_bytes = int(answer[1])
        return answer[0]

    def _ask(self, line: str) -> tuple[float, float] | None:
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise SystemExit("a runtime was started without pipes")
        print(line, file=stdin, flush=True)
        for answer in stdout:
            if answer.startswith("answer"):
                _, a, b = answer.split()
                return float(a), float(b)
        print(f"  {self.name} does not run: exit code {self.process.wait()}", file=sys.stderr)
        return None


def start(name: str, paths: list[Path], threads: int, peers: str) -> Runtime:
    """A process for the networks, bound to as many cores as it may use threads."""
    python = sys.executable if name in OURS else peers
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
    command = ["taskset", "-c", cores, python, str(RUNTIMES), name, str(threads), *map(str, paths)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return Runtime(name=name, process=subprocess.Popen(command, text=True, env=environment, **pipes))


def export(model: torch.nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """The network, an input and PyTorch's output beside it."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    model.eval()
    with torch.no_grad():
        y = model(x)
    torch.export.save(torch.export.export(model, (x,)), path)
    np.savez(path.with_suffix(".npz"), x=x.numpy(), y=y.numpy())


def race(path: Path, names: list[str], threads: int, peers: str, rounds: int) -> dict[str, dict[str, object]]:
    """Samples of each runtime, taken in turns."""
    runtimes = [r for r in (start(name, [path], threads, peers) for name in names) if r.load(0)]
    counts = {r.name: max(1, int(ROUND_S / min(r.sample(0, 1) for _ in range(3)))) for r in runtimes}
    for runtime in runtimes:
        runtime.samples.clear()
    for _ in range(rounds):
        for runtime in runtimes:
            runtime.sample(0, counts[runtime.name])
    for runtime in runtimes:
        runtime.process.terminate()
    return {
        r.name: {
            "min_s": min(r.samples),
            "median_s": statistics.median(r.samples),
            "samples": r.samples,
            "error": r.error,
            "first_s": r.first_s,
            "peak_bytes": r.peak_bytes,
        }
        for r in runtimes
    }


def show(title: str, result: dict[str, dict[str, object]], macs: int, peak: float) -> None:
    print(title)
    for name, facts in sorted(result.items(), key=lambda pair: pair[1]["min_s"]):  # type: ignore[arg-type, return-value]
        share = 100 * macs / facts["min_s"] / peak  # type: ignore[operator]
        print(
            f"  {name:12s} min {facts['min_s'] * 1e3:8.2f} ms  median {facts['median_s'] * 1e3:8.2f} ms  "  # type: ignore[operator]
            f"{share:4.0f} % of peak  error {facts['error']:.0e}  first {facts['first_s']:5.1f} s  "
            f"{facts['peak_bytes'] / 2**20:5.0f} MiB"  # type: ignore[operator]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument(
        "--runtimes", nargs="+", default=["separable", "xnnpack", "onnxruntime", "openvino", "inductor", "eager"]
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peers", default=sys.executable, help="a Python that has the peers installed")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "engine.json")
    options = parser.parse_args()
    machine = this_machine()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for network in options.networks:
            model = NETWORKS[network]()
            for batch in options.batches:
                path = Path(folder) / f"{network}-{batch}.pt2"
                export(model, (batch, 3, 224, 224), path)
                macs = batch * _macs(model)
                for threads in options.threads:
                    peak = machine.fma_per_s * threads / machine.threads
                    result = race(path, options.runtimes, threads, options.peers, options.rounds)
                    show(f"{network}, batch {batch}, {threads} threads", result, macs, peak)
                    results.append(
                        {"network": network, "batch": batch, "threads": threads, "macs": macs, "runtimes": result}
                    )
                    _write(options.out, results, machine.to_json())


def _macs(model: torch.nn.Module) -> int:
    from separable.cost import count

    return count(model, torch.empty(1, 3, 224, 224, device="meta")).total.macs


def _write(path: Path, results: list[dict[str, object]], machine: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "machine": machine,
        "cpu": llvm.get_host_cpu_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    path.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
