"""Networks and single layers on the engine against other runtimes. In: names, batches, threads. Out: JSON and a table.

Each runtime is a process of its own; samples are taken in rounds, one of each runtime in turn, so that what disturbs
the machine disturbs all alike, and each begins when the threads of the one before rest. Behind them the engine and the
processor's peak are measured in turns, forward by forward. All samples are kept. A runtime that ends, or whose output
is not PyTorch's, is left out, and that is said. Run from the repository; a part that is run again replaces that part of
the results, ``--more`` leaves out what they hold already, ``--within`` begins nothing new after so many seconds:

    python bench/engine.py --prepare --peers /path/to/python-with-the-peers
    python bench/engine.py --more --within 120 --peers /path/to/python-with-the-peers
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import torch
import upsampling
from places import of_this_processor
from runtimes import PEAK_MACS
from torch import nn

from separable import models
from separable.cost import count

SCRIPT = Path(__file__).with_name("runtimes.py")
OURS = ("separable", "eager", "inductor", "peak")
PEERS = ("xnnpack", "onnxruntime", "openvino", "ncnn", "mnn")
EXPORTS = Path(tempfile.gettempdir()) / "separable-bench"
LIMIT = 1e-4
ROUND_S, LONG_S = 0.1, 2.0
REST_S = 1.0  # at most
TURNS, TURNS_S = 100, 6.0  # at most
CALM = 0.03  # by how much the peak before and after a forward may differ


def layer(c_in: int, c_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> Callable[[], nn.Module]:
    """A convolution and a ReLU6, as in MobileNetV2."""
    options = {"stride": stride, "padding": kernel // 2, "groups": groups}
    return lambda: nn.Sequential(nn.Conv2d(c_in, c_out, kernel, **options), nn.ReLU6())


Subjects = dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]]  # name → module, shape of one image
NETWORKS: Subjects = {
    "mobilenet_v1": (lambda: models.mobilenet_v1(), (3, 224, 224)),
    "mobilenet_v2": (lambda: models.mobilenet_v2(), (3, 224, 224)),
    "mobilenet_v2_half": (lambda: models.mobilenet_v2(width=0.5), (3, 224, 224)),
    "resnet50": (lambda: models.resnet50(), (3, 224, 224)),
}
UPSAMPLING: Subjects = {
    "U-Net at 256": (upsampling.unet, (3, 256, 256)),
    "ESPCN ×3 at 120×160": (upsampling.espcn, (3, 120, 160)),
    "DCGAN to 64": (upsampling.generator, (100, 1, 1)),
}
LAYERS: Subjects = {
    "stem 3×3 3→32 at 224": (layer(3, 32, 3, stride=2), (3, 224, 224)),
    "pointwise 24→144 at 56": (layer(24, 144, 1), (24, 56, 56)),
    "pointwise 512→512 at 14": (layer(512, 512, 1), (512, 14, 14)),
    "pointwise 960→160 at 7": (layer(960, 160, 1), (960, 7, 7)),
    "depthwise 3×3 of 64 at 28": (layer(64, 64, 3, groups=64), (64, 28, 28)),
    "depthwise 3×3 of 96 at 112, stride 2": (layer(96, 96, 3, groups=96, stride=2), (96, 112, 112)),
    "depthwise 5×5 of 240 at 28": (layer(240, 240, 5, groups=240), (240, 28, 28)),
    "dense 3×3 64→64 at 56": (layer(64, 64, 3), (64, 56, 56)),
    "dense 3×3 512→512 at 7": (layer(512, 512, 3), (512, 7, 7)),
}
GROUPS = {"networks": NETWORKS, "upsampling": UPSAMPLING, "layers": LAYERS}
SUBJECTS = NETWORKS | UPSAMPLING | LAYERS


@dataclass
class Runtime:
    """A process that runs networks, one after the other."""

    name: str
    process: subprocess.Popen[str]

    def load(self, which: int) -> list[float]:
        """Prepares a network: its relative difference from PyTorch and the seconds until the first output.

        Nothing when it cannot.
        """
        return self._ask(f"load {which}")

    def sample(self, which: int, times: int) -> float:
        """Mean seconds of ``times`` forwards; not a number once the process has ended.

        Threads of some runtimes go on spinning for a while: until they rest, nobody else begins.
        """
        seconds = next(iter(self._ask(f"run {which} {times}")), math.nan)
        end = time.perf_counter() + REST_S
        while self._is_busy() and time.perf_counter() < end:
            time.sleep(0.005)
        return seconds

    def _is_busy(self) -> bool:
        """Whether a thread of the process runs or waits for a core."""
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # a thread that has ended
                if task.read_text().rpartition(")")[2].split()[0] == "R":
                    return True
        return False

    def turns(self, which: int) -> list[float]:
        """Seconds in turns: of the peak's loop, a forward, the loop, …, the loop."""
        return [round(seconds, 7) for seconds in self._ask(f"turns {which} {TURNS} {TURNS_S}")]

    def _ask(self, line: str) -> list[float]:
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise SystemExit("a runtime was started without pipes")
        if self.process.poll() is None:
            print(line, file=stdin, flush=True)
            for answer in stdout:
                if answer.startswith("answer"):
                    return [float(word) for word in answer.split()[1:]]
        print(f"  {self.name} does not run: exit code {self.process.wait()}", file=sys.stderr)
        return []


def start(name: str, paths: Iterable[Path], threads: int, peers: str) -> Runtime:
    """A process for the networks, bound to as many cores as it may use threads."""
    python = sys.executable if name in OURS else peers
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
    command = ["taskset", "-c", cores, python, str(SCRIPT), name, str(threads), *map(str, paths)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_CACHE_DIR": str(EXPORTS / "inductor")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return Runtime(name=name, process=subprocess.Popen(command, text=True, env=environment, **pipes))


def export(make: Callable[[], nn.Module], shape: tuple[int, ...], path: Path) -> None:
    """The network, an input and PyTorch's output beside it; what is there is kept. Weights are always the same."""
    if path.exists() and path.with_suffix(".npz").exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        y = model(x)
    torch.export.save(torch.export.export(model, (x,)), path)
    np.savez(path.with_suffix(".npz"), x=x.numpy(), y=y.numpy())


def prepare(paths: Iterable[Path], names: Iterable[str], peers: str) -> None:
    """The forms that the peers read, written in a process of its own: a runtime then runs as users run it."""
    chosen = [name for name in names if name in PEERS]
    if chosen:
        subprocess.run([peers, str(SCRIPT), "prepare", ",".join(chosen), *map(str, paths)], check=True)


def race(runtimes: list[Runtime], which: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Samples of each runtime for one network, taken in turns."""
    able = {runtime.name: facts for runtime in runtimes if (facts := runtime.load(which)) and _agrees(runtime, facts)}
    running = [runtime for runtime in runtimes if runtime.name in able]
    once = {r.name: min(r.sample(which, 1) for _ in range(3 if r.sample(which, 1) < ROUND_S else 1)) for r in running}
    rounds = max(5, min(rounds, int(rounds * LONG_S / sum(max(ROUND_S, s) for s in once.values()))))
    times = {name: max(1, int(ROUND_S / s)) if s > 0 else 1 for name, s in once.items()}
    samples: dict[str, list[float]] = {name: [] for name in once}
    for _ in range(rounds):
        for runtime in running:
            samples[runtime.name].append(runtime.sample(which, times[runtime.name]))
    runtimes[:] = [runtime for runtime in runtimes if runtime.process.poll() is None]
    return {
        name: {"min_s": min(s), "median_s": statistics.median(s), "samples": s, "error": error, "first_s": first}
        for name, (error, first) in able.items()
        if not any(map(math.isnan, s := samples[name]))
    }


def _agrees(runtime: Runtime, facts: list[float]) -> bool:
    """Whether its output is PyTorch's; what computes something else is not timed."""
    if facts[0] > LIMIT:
        print(f"  {runtime.name} is {facts[0]:.1e} from PyTorch and left out", file=sys.stderr)
    return facts[0] <= LIMIT


def fastest_peer(runtimes: dict[str, dict[str, Any]], key: str = "median_s") -> tuple[str, float]:
    """The best of all but the engine, and its seconds."""
    return min(((n, f[key]) for n, f in runtimes.items() if n != "separable"), key=lambda pair: pair[1])


def share(result: dict[str, Any]) -> str:
    """Multiply-adds a second over the peak's, in the rounds with the same peak before and after: their median."""
    turns = result["turns"]
    rounds = zip(turns[0::2], turns[1::2], turns[2::2], strict=False)
    shares = [
        result["macs"] / forward * (before + after) / 2 / PEAK_MACS
        for before, forward, after in rounds
        if abs(before - after) < CALM * (before + after) / 2
    ]
    of_all = 100 * len(shares) / (len(turns) // 2)
    return f"{100 * statistics.median(shares):.0f} % ({of_all:.0f} %)" if shares else "no calm round"


def line(result: dict[str, Any]) -> str:
    """One row of the table: medians in ms, the ratio to the fastest peer, the share of the peak."""
    runtimes = result["runtimes"]
    ours = runtimes["separable"]
    ratios = [fastest_peer(runtimes, key)[1] / ours[key] for key in ("median_s", "min_s")]
    times = [f"{1e3 * runtimes[n]['median_s']:.2f}" if n in runtimes else "" for n in COLUMNS]
    return (
        f"| {result['network']} | {result['batch']} | {result['threads']} | {' | '.join(times)} | "
        f"{fastest_peer(runtimes)[0]} {ratios[0]:.2f} ({ratios[1]:.2f}) | {share(result)} | "
        f"{result['load']:.0f} |"
    )


COLUMNS = ("separable", *PEERS, "inductor", "eager")
HEAD = (
    "# The engine against other runtimes\n\nMedians in milliseconds; beside the fastest peer how many times faster "
    "the engine is by medians (by minima). Share of peak: multiply-adds a second over those of a loop in registers, "
    "taken in turns with it, forward by forward; the median of those with the same peak (to 3 %) before and after, and "
    "how many these were. What waits for memory does not grow with the processor's clock: at a higher one the share is "
    "lower. Load: processes that wanted to run, ours included; far above the threads, other work disturbed the run. "
    "Inductor is torch.compile with freezing, eager PyTorch with channels last; ncnn runs a batch image by image.\n\n"
    f"| subject | batch | threads | {' | '.join(COLUMNS)} | fastest peer | share of peak | load |\n"
    f"|{'---|' * (len(COLUMNS) + 6)}\n"
)


def versions(peers: str) -> dict[str, str]:
    """Of the packages that are compared, in the Python that has them."""
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    installed = json.loads(subprocess.run([peers, "-c", code], check=True, capture_output=True, text=True).stdout)
    return {name: v for name, v in installed.items() if name.lower() in ("executorch", *PEERS)}


def keep(path: Path, result: dict[str, Any], peers: dict[str, str]) -> None:
    """Puts one result among the others, in place of an older one of the same name, and writes the table beside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"results": []}
    key = ("network", "batch", "threads")
    others = [r for r in facts["results"] if [r[k] for k in key] != [result[k] for k in key]]
    order = list(SUBJECTS)
    results = sorted([*others, result], key=lambda r: (order.index(r["network"]), r["batch"], r["threads"]))
    facts = {
        "cpu": llvm.get_host_cpu_name(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "peers": peers,
        "results": results,
    }
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(HEAD + "\n".join(map(line, results)) + "\n", encoding="utf-8")


def missing(path: Path, cases: list[tuple[str, int]], threads: int) -> list[tuple[str, int]]:
    """The cases that the results do not hold yet."""
    results = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else []
    held = {(r["network"], r["batch"], r["threads"]) for r in results}
    return [case for case in cases if (*case, threads) not in held]


def main() -> None:
    options = _options()
    names = [name for subject in options.subjects for name in GROUPS.get(subject, [subject])]
    cases = [(name, batch) for name in names for batch in options.batches]
    for name, batch in [*cases, *[(name, 1) for name in names]]:  # ncnn runs the network for one image
        export(SUBJECTS[name][0], (batch, *SUBJECTS[name][1]), export_path(name, batch))
    prepare([export_path(*case) for case in cases], options.runtimes, options.peers)
    end = time.perf_counter() + options.within
    for threads in () if options.prepare else options.threads:
        _measure(missing(options.out, cases, threads) if options.more else cases, threads, end, options)


def _measure(cases: list[tuple[str, int]], threads: int, end: float, options: argparse.Namespace) -> None:
    """One case after the other; what would begin after ``end`` is only counted."""
    paths = [export_path(*case) for case in cases] if time.perf_counter() < end else []
    runtimes = [start(name, paths, threads, options.peers) for name in options.runtimes if paths]
    for i, case in enumerate(cases):
        if time.perf_counter() > end:
            print(f"{len(cases) - i} more with {threads} threads", flush=True)
            break
        result = measured(*case, threads, race(runtimes, i, options.rounds))
        result["turns"] = next(r.turns(i) for r in runtimes if r.name == "separable")
        print(line(result), flush=True)
        keep(options.out, result, versions(options.peers))
    for runtime in runtimes:
        runtime.process.terminate()


def measured(name: str, batch: int, threads: int, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What is kept of a case."""
    make, shape = SUBJECTS[name]
    macs = batch * count(make(), torch.empty(1, *shape, device="meta")).total.macs
    facts = {"network": name, "batch": batch, "threads": threads, "macs": macs, "load": os.getloadavg()[0]}
    return {**facts, "runtimes": found}


def export_path(name: str, batch: int) -> Path:
    return EXPORTS / f"{name.translate(PLAIN)}-{batch}.pt2"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", nargs="+", default=["networks"], help=f"names, or {', '.join(GROUPS)}")
    parser.add_argument("--runtimes", nargs="+", default=["separable", *PEERS, "inductor", "eager"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peers", default=sys.executable, help="a Python that has the peers installed")
    parser.add_argument("--prepare", action="store_true", help="only write what the runtimes read")
    parser.add_argument("--more", action="store_true", help="leave out what the results hold already")
    parser.add_argument("--within", type=float, default=math.inf, help="seconds after which nothing new is begun")
    parser.add_argument("--out", type=Path, default=of_this_processor("engine"))
    return parser.parse_args()


PLAIN = str.maketrans({" ": "-", "×": "x", "→": "-", ",": None})

if __name__ == "__main__":
    main()
