"""Theory against practice: a depthwise-separable pair against the standard convolution. Out: JSON and a picture.

For each number of channels, map and kernel, and each runtime: the counted saving, and the measured one against that
runtime's own standard convolution and against the fastest of all. Run from the repository:

    python bench/realised.py --peers /path/to/python-with-the-peers
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from engine import Runtime, export, start
from torch import nn

from separable.cost import this_machine

POINTS = [(32, 112), (64, 112), (64, 56), (128, 56), (128, 28), (256, 28), (256, 14), (512, 14), (512, 7), (1024, 7)]
KERNELS = (3, 5)
ROUND_S = 0.02


def pair(channels: int, kernel: int) -> nn.Module:
    """Depthwise and pointwise, a ReLU behind each, as in MobileNetV1."""
    depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
    return nn.Sequential(depthwise, nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU())


def standard(channels: int, kernel: int) -> nn.Module:
    """The convolution that the pair stands in for."""
    return nn.Sequential(nn.Conv2d(channels, channels, kernel, padding=kernel // 2), nn.ReLU())


def theory(channels: int, kernel: int) -> float:
    """Multiply-accumulates of the standard convolution over those of the pair.

    >>> round(theory(256, 3), 2)
    8.69
    """
    return channels * kernel**2 / (kernel**2 + channels)


def measure(runtimes: list[Runtime], which: int, rounds: int) -> dict[str, float]:
    """The least seconds of each runtime for one network, samples taken in turns."""
    able = [runtime for runtime in runtimes if runtime.load(which)]
    counts = {r.name: max(1, int(ROUND_S / min(r.sample(which, 1) for _ in range(3)))) for r in able}
    samples: dict[str, list[float]] = {runtime.name: [] for runtime in able}
    for _ in range(rounds):
        for runtime in able:
            samples[runtime.name].append(runtime.sample(which, counts[runtime.name]))
    return {name: min(taken) for name, taken in samples.items()}


def draw(points: list[dict[str, object]], path: Path) -> None:
    """Measured against counted speed-up, one panel for each way to compare."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 5), sharex=True, sharey=True)
    names = list(points[0]["pair_s"])  # type: ignore[call-overload]
    for panel, key, title in zip(panels, ("own", "fastest"), ("its own", "the fastest"), strict=True):
        for name in names:
            xy = sorted((p["theory"], p[key][name]) for p in points if name in p[key])  # type: ignore[index, operator]
            panel.scatter(*zip(*xy, strict=True), label=name, s=22)
        limit = max(p["theory"] for p in points) * 1.1  # type: ignore[type-var, operator]
        panel.plot([1, limit], [1, limit], color="grey", linewidth=1)
        panel.axhline(1, color="grey", linewidth=1, linestyle=":")
        panel.set(xscale="log", yscale="log", title=f"against {title} standard convolution", xlabel="counted speed-up")
    panels[0].set_ylabel("measured speed-up of the pair")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runtimes", nargs="+", default=["separable", "xnnpack", "onnxruntime", "openvino", "eager"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", default=sys.executable, help="a Python that has the peers installed")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "realised.json")
    options = parser.parse_args()
    cases = [(c, size, k) for k in KERNELS for c, size in POINTS]
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for c, size, k in cases:
            for make in (pair, standard):
                paths.append(Path(folder) / f"{make.__name__}-{c}-{size}-{k}.pt2")
                export(make(c, k), (1, c, size, size), paths[-1])
        runtimes = [start(name, paths, options.threads, options.peers) for name in options.runtimes]
        points: list[dict[str, object]] = []
        for i, (c, size, k) in enumerate(cases):
            pairs, dense = (measure(runtimes, 2 * i + j, options.rounds) for j in (0, 1))
            own = {name: dense[name] / pairs[name] for name in pairs}
            fastest = {name: min(dense.values()) / pairs[name] for name in pairs}
            points.append(
                {"channels": c, "map": size, "kernel": k, "theory": theory(c, k), "pair_s": pairs, "standard_s": dense}
                | {"own": own, "fastest": fastest}
            )
            shown = "  ".join(f"{name} {own[name]:.1f} ({fastest[name]:.1f})" for name in own)
            print(f"c {c:4d} map {size:3d} k {k}: counted {theory(c, k):.1f}  measured {shown}", flush=True)
            machine = this_machine().to_json()
            options.out.write_text(
                json.dumps({"machine": machine, "torch": torch.__version__, "points": points}, indent=1) + "\n",
                encoding="utf-8",
            )
        for runtime in runtimes:
            runtime.process.terminate()
    draw(points, options.out.with_suffix(".png"))
    for name in options.runtimes:
        shares = [p["own"][name] / p["theory"] for p in points]  # type: ignore[index, operator]
        print(f"{name}: the median pair realises {100 * statistics.median(shares):.0f} % of the counted saving")


if __name__ == "__main__":
    main()
