"""Theory against practice: a depthwise-separable pair against the standard convolution. Out: JSON, a table, a picture.

For each number of channels, map and kernel, and each runtime: the counted saving, and the measured one against that
runtime's own standard convolution and against the fastest of all; then whole networks: MobileNetV1 against itself with
standard convolutions, and MobileNetV2 against ResNet-50. Run from the repository:

    python bench/realised.py --peers /path/to/python-with-the-peers
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import torch
from engine import EXPORTS, export, prepare, race, start
from torch import nn

from separable import models
from separable.cost import count

POINTS = [(32, 112), (64, 112), (64, 56), (128, 56), (128, 28), (256, 28), (256, 14), (512, 14), (512, 7), (1024, 7)]
KERNELS = (3, 5)
# Okabe and Ito's colours, told apart by the colour-blind, each with a marker of its own.
LOOKS = {
    "separable": ("#D55E00", "o"),
    "onnxruntime": ("#0072B2", "s"),
    "openvino": ("#009E73", "^"),
    "xnnpack": ("#CC79A7", "D"),
    "ncnn": ("#E69F00", "P"),
    "eager": ("#000000", "v"),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A separable module and the standard one that it stands in for, on one input."""

    title: str
    separable: Callable[[], nn.Module]
    standard: Callable[[], nn.Module]
    shape: tuple[int, int, int, int]
    channels: int = 0
    kernel: int = 0

    def paths(self) -> tuple[Path, Path]:
        """Where the two are exported to."""
        name = f"realised {self.title}".replace(" ", "-")
        return EXPORTS / f"{name}-separable.pt2", EXPORTS / f"{name}-standard.pt2"

    def macs(self) -> tuple[int, int]:
        """Multiply-accumulates of the two."""
        x = torch.empty(self.shape, device="meta")
        first, second = (count(make(), x).total.macs for make in (self.separable, self.standard))
        return first, second


def pair(channels: int, kernel: int) -> nn.Module:
    """Depthwise and pointwise, a ReLU behind each, as in MobileNetV1."""
    depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
    return nn.Sequential(depthwise, nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU())


def standard(channels: int, kernel: int) -> nn.Module:
    """The convolution that the pair stands in for."""
    return nn.Sequential(nn.Conv2d(channels, channels, kernel, padding=kernel // 2), nn.ReLU())


def standard_v1() -> nn.Module:
    """MobileNetV1 with a standard 3×3 convolution in place of each pair."""
    layers: list[nn.Module] = []
    c_in = 3
    for c_out, stride in ((32, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5):
        layers += _block(c_in, c_out, stride)
        c_in = c_out
    layers += [*_block(512, 1024, 2), *_block(1024, 1024, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000))


def _block(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]


def cases() -> Iterator[Case]:
    """The pairs, then the networks."""
    for k in KERNELS:
        for c, size in POINTS:
            yield Case(
                title=f"c {c} map {size} k {k}",
                separable=lambda c=c, k=k: pair(c, k),  # type: ignore[misc]
                standard=lambda c=c, k=k: standard(c, k),  # type: ignore[misc]
                shape=(1, c, size, size),
                channels=c,
                kernel=k,
            )
    image = (1, 3, 224, 224)
    yield Case(title="MobileNetV1", separable=lambda: models.mobilenet_v1(), standard=standard_v1, shape=image)
    yield Case(
        title="MobileNetV2", separable=lambda: models.mobilenet_v2(), standard=lambda: models.resnet50(), shape=image
    )


def measured(case: Case, separable: dict[str, Any], dense: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a case: medians, and the savings that they realise."""
    few, many = case.macs()
    pairs, denses = ({n: f["median_s"] for n, f in found.items() if n != "peak"} for found in (separable, dense))
    both = [name for name in pairs if name in denses]
    return {
        "title": case.title,
        "channels": case.channels,
        "kernel": case.kernel,
        "theory": many / few,
        "separable_s": pairs,
        "standard_s": denses,
        "own": {name: denses[name] / pairs[name] for name in both},
        "fastest": {name: min(denses.values()) / pairs[name] for name in pairs},
        "samples": {n: {"separable": separable[n]["samples"], "standard": dense[n]["samples"]} for n in both},
    }


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Measured against counted speed-up, one panel for each way to compare."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(12, 5.6), sharex=True, sharey=True)
    small = [p for p in points if p["channels"]]
    whole = [p for p in points if not p["channels"]]
    ways = (("own", "against the runtime's own standard convolution"), ("fastest", "against the fastest of all"))
    for panel, (key, title) in zip(panels, ways, strict=True):
        for name, (colour, marker) in LOOKS.items():
            xy = sorted((p["theory"], p[key][name]) for p in small if name in p[key])
            if xy:
                panel.scatter(*zip(*xy, strict=True), label=name, s=34, color=colour, marker=marker, alpha=0.8)
            stars = [(p["theory"], p[key][name]) for p in whole if name in p[key]]
            if stars:
                panel.scatter(*zip(*stars, strict=True), s=110, facecolors="none", edgecolors=colour, marker=marker)
        low, high = min(p["theory"] for p in points) / 1.2, max(p["theory"] for p in points) * 1.2
        panel.plot([low, high], [low, high], color="grey", linewidth=1)
        panel.annotate("all of the counted saving", (low * 1.1, low * 1.25), rotation=30, color="grey", fontsize=9)
        panel.axhline(1, color="grey", linewidth=1, linestyle=":")
        panel.set(xscale="log", yscale="log", title=title, xlabel="counted speed-up (MACs)")
        ticks = (1, 2, 5, 10, 20)
        panel.set_xlim(low, high)
        panel.set_xticks(ticks, [f"{t}×" for t in ticks])
        panel.set_yticks((0.5, *ticks), [f"{t:g}×" for t in (0.5, *ticks)])
        panel.minorticks_off()
    panels[0].set_ylabel("measured speed-up of the separable one")
    panels[0].legend(title="filled: pairs; hollow: networks", loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def table(points: list[dict[str, Any]], load: float) -> str:
    """Each case a row: counted, then each runtime's saving against its own and against the fastest."""
    names = list(points[0]["own"])
    head = "# The saving of separable convolutions, counted and measured\n\n"
    head += "How many times faster than the runtime's own standard convolution (than the fastest), by medians. "
    head += f"Load while measuring: {load:.0f}; far above the threads, other work disturbed the run.\n\n"
    lines = [f"| case | counted | {' | '.join(names)} |", f"|{'---|' * (len(names) + 2)}"]
    for p in points:
        cells = [f"{p['own'][n]:.1f} ({p['fastest'][n]:.1f})" if n in p["own"] else "" for n in names]
        lines.append(f"| {p['title']} | {p['theory']:.1f} | {' | '.join(cells)} |")
    shares = [
        f"- {n}: the median pair realises {_share(points, n, 'own')} % of the counted saving against its own "
        f"standard convolution, {_share(points, n, 'fastest')} % against the fastest"
        for n in names
    ]
    return head + "\n".join([*lines, "", *shares]) + "\n"


def _share(points: list[dict[str, Any]], name: str, key: str) -> str:
    found = [p[key][name] / p["theory"] for p in points if p["channels"] and name in p[key]]
    return f"{100 * statistics.median(found):.0f}" if found else "?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runtimes", nargs="+", default=["separable", "onnxruntime", "openvino", "eager"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", default=sys.executable, help="a Python that has the peers installed")
    parser.add_argument("--prepare", action="store_true", help="only write what the runtimes read")
    parser.add_argument("--draw", action="store_true", help="only draw what was measured")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "realised.json")
    options = parser.parse_args()
    if not options.draw:
        points = _measure(options)
        if options.prepare:
            return
        facts = {"cpu": llvm.get_host_cpu_name(), "torch": torch.__version__, "threads": options.threads}
        facts |= {"load": os.getloadavg()[0], "points": points}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    facts = json.loads(options.out.read_text(encoding="utf-8"))
    points, shown = facts["points"], table(facts["points"], facts["load"])
    draw(points, options.out.with_suffix(".png"))
    options.out.with_suffix(".md").write_text(shown, encoding="utf-8")
    print(shown)


def _measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    listed = list(cases())
    for case in listed:
        for make, path in zip((case.separable, case.standard), case.paths(), strict=True):
            export(make, case.shape, path)
    paths = [path for case in listed for path in case.paths()]
    prepare(paths, options.runtimes, options.peers)
    if options.prepare:
        return []
    runtimes = [start(name, paths, options.threads, options.peers) for name in options.runtimes]
    points = []
    for i, case in enumerate(listed):
        separable, dense = (race(runtimes, 2 * i + j, options.rounds) for j in (0, 1))
        points.append(measured(case, separable, dense))
        shown = "  ".join(f"{n} {x:.1f}" for n, x in points[-1]["own"].items())
        print(f"{case.title}: counted {points[-1]['theory']:.1f}  measured {shown}", flush=True)
    for runtime in runtimes:
        runtime.process.terminate()
    return points


if __name__ == "__main__":
    main()
