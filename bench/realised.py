"""Theory against practice: a depthwise-separable pair against the standard convolution. Out: JSON, a table, a picture.

For each number of channels, map and kernel, and each runtime: the counted saving, and the measured one against that
runtime's own standard convolution and against the fastest of all; then whole networks: MobileNetV1 against itself with
standard convolutions, and MobileNetV2 against ResNet-50. Options as those of ``engine.py``. From the repository:

    python bench/realised.py --prepare --peers /path/to/python-with-the-peers
    python bench/realised.py --more --within 100 --peers /path/to/python-with-the-peers
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import torch
from engine import EXPORTS, PEERS, export, prepare, race, start
from places import of_this_processor
from torch import nn

from separable import models
from separable.cost import count

POINTS = [(32, 112), (64, 112), (64, 56), (128, 56), (128, 28), (256, 28), (256, 14), (512, 14), (512, 7), (1024, 7)]
KERNELS = (3, 5)
# A case that spreads more was disturbed by other work.
UNREST = 1.3
# Okabe and Ito's colours, told apart by the colour-blind, each with a marker of its own.
LOOKS = {
    "separable": ("#D55E00", "o"),
    "onnxruntime": ("#0072B2", "s"),
    "openvino": ("#009E73", "^"),
    "xnnpack": ("#CC79A7", "D"),
    "ncnn": ("#E69F00", "P"),
    "mnn": ("#56B4E9", "X"),
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
        "map": case.shape[-1],
        "kernel": case.kernel,
        "theory": many / few,
        "peak_s": max(found["peak"]["median_s"] for found in (separable, dense)),
        "separable_s": pairs,
        "standard_s": denses,
        "own": {name: denses[name] / pairs[name] for name in both},
        "fastest": {name: min(denses.values()) / pairs[name] for name in pairs},
        "samples": {n: {"separable": separable[n]["samples"], "standard": dense[n]["samples"]} for n in both},
    }


def unrest(point: dict[str, Any], points: list[dict[str, Any]]) -> float:
    """How much other work disturbed a case.

    The mean of medians over minima, over all runtimes and both forms; or what a loop in registers alone took more than
    in the quietest case, when that is worse. (Points of before the loop was measured have the first alone.)
    """
    every = [samples for forms in point["samples"].values() for samples in forms.values()]
    spread = statistics.fmean(statistics.median(samples) / min(samples) for samples in every)
    loops = [p["peak_s"] for p in points if "peak_s" in p]
    return max(spread, point["peak_s"] / min(loops)) if "peak_s" in point else spread


AGAINST = {"MobileNetV1": "against its\nstandard form", "MobileNetV2": "against\nResNet-50"}
WAYS = (("own", "own standard convolution"), ("fastest", "the fastest standard convolution"))


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Counted and measured speed-up of the pairs for each kernel, then of the networks; a row for each comparison."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    options = {"sharex": "col", "sharey": "row", "width_ratios": (4, 4, 1.7)}
    figure, panels = pyplot.subplots(2, 3, figsize=(12.5, 8), **options)
    titles = (*(f"pair of depthwise {k}×{k} and 1×1" for k in KERNELS), "whole networks")
    for row, (key, against) in zip(panels, WAYS, strict=True):
        for panel, kernel, title in zip(row, (*KERNELS, 0), titles, strict=True):
            _panel(panel, [p for p in points if p["kernel"] == kernel], key)
            panel.set_title(title if key == "own" else "", fontsize=11)
        row[0].set_ylabel(f"times faster than\n{against}")
    panels[1][0].set_xlabel("channels, and the side of the map")
    panels[1][1].set_xlabel("channels, and the side of the map")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _panel(panel: Any, points: list[dict[str, Any]], key: str) -> None:
    at = range(len(points))
    counted = [p["theory"] for p in points]
    are_pairs = bool(points and points[0]["kernel"])
    style = "--" if are_pairs else "none"
    panel.plot(at, counted, linestyle=style, marker="_", markersize=14, color="grey", label="counted (MACs)")
    for name, (colour, marker) in LOOKS.items():
        xy = [(i, p[key][name]) for i, p in enumerate(points) if name in p[key]]
        if xy:
            ours = name == "separable"
            look: dict[str, Any] = {
                "linewidth": 2.4 if ours else 1.0,
                "markersize": 7 if ours else 5,
                "zorder": 3 if ours else 2,
            }
            look["linestyle"] = "-" if are_pairs else "none"
            panel.plot(*zip(*xy, strict=True), color=colour, marker=marker, label=name, **look)
    labels = [f"{p['channels']}\n{p['map']}" if are_pairs else f"{p['title']}\n{AGAINST[p['title']]}" for p in points]
    panel.set_xticks(list(at), labels, fontsize=9)
    panel.margins(x=0.08 if are_pairs else 0.5)
    panel.axhline(1, color="grey", linewidth=1, linestyle=":")
    panel.set_yscale("log")
    ticks = (0.5, 1, 2, 3, 5, 10, 20, 50)
    panel.set_yticks(ticks, [f"{t:g}×" for t in ticks])
    panel.minorticks_off()
    panel.grid(axis="y", color="0.92")


def table(points: list[dict[str, Any]]) -> str:
    """Each case a row: counted, then each runtime's saving against its own and against the fastest."""
    names = [name for name in LOOKS if any(name in p["own"] for p in points)]
    head = "# The saving of separable convolutions, counted and measured\n\n"
    head += "How many times faster than the runtime's own standard convolution (than the fastest), by medians. "
    head += f"Unrest: how far medians lie above minima; above {UNREST}, other work disturbed the case. "
    head += (
        "Ours, ncnn and MNN run 3×3 by Winograd, with up to 4 times fewer multiplications than are counted; ours many "
        "channels of 1×1 by Strassen, with an eighth fewer.\n\n"
    )
    lines = [f"| case | counted | {' | '.join(names)} | unrest |", f"|{'---|' * (len(names) + 3)}"]
    for p in points:
        cells = [f"{p['own'][n]:.1f} ({p['fastest'][n]:.1f})" if n in p["own"] else "" for n in names]
        lines.append(f"| {p['title']} | {p['theory']:.1f} | {' | '.join(cells)} | {unrest(p, points):.2f} |")
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
    parser.add_argument("--runtimes", nargs="+", default=["separable", *PEERS, "eager"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=sys.executable, help="a Python that has the peers installed")
    parser.add_argument("--prepare", action="store_true", help="only write what the runtimes read")
    parser.add_argument("--draw", action="store_true", help="only draw what was measured")
    parser.add_argument("--more", action="store_true", help="only what the results do not hold, or hold disturbed")
    parser.add_argument("--within", type=float, default=math.inf, help="seconds after which nothing new is begun")
    parser.add_argument("--out", type=Path, default=of_this_processor("realised"))
    options = parser.parse_args()
    if options.prepare:
        _prepare(options)
        return
    if not options.draw:
        _measure(options)
    points = _points(options.out)
    draw(points, options.out.with_suffix(".png"))
    options.out.with_suffix(".md").write_text(table(points), encoding="utf-8")


def _points(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["points"] if path.exists() else []


def _prepare(options: argparse.Namespace) -> None:
    for case in cases():
        for make, path in zip((case.separable, case.standard), case.paths(), strict=True):
            export(make, case.shape, path)
    prepare([path for case in cases() for path in case.paths()], options.runtimes, options.peers)


def _measure(options: argparse.Namespace) -> None:
    begin = time.perf_counter()
    order = [case.title for case in cases()]
    measured_before = _points(options.out) if options.more else []
    held = {p["title"] for p in measured_before if unrest(p, measured_before) < UNREST}
    wanted = [case for case in cases() if case.title not in held]
    paths = [path for case in wanted for path in case.paths()]
    names = (*options.runtimes, "peak")
    runtimes = [start(name, paths, options.threads, options.peers) for name in names if paths]
    for i, case in enumerate(wanted):
        if time.perf_counter() - begin > options.within:
            print(f"{len(wanted) - i} more")
            break
        separable, dense = (race(runtimes, 2 * i + j, options.rounds) for j in (0, 1))
        point = measured(case, separable, dense)
        others = [p for p in _points(options.out) if p["title"] != case.title]
        former = [p for p in _points(options.out) if p["title"] == case.title and options.more]
        every = [*others, *former, point]
        best = min([*former, point], key=lambda p, every=every: unrest(p, every))  # type: ignore[misc]
        points = sorted([*others, best], key=lambda p: order.index(p["title"]))
        facts = {"cpu": llvm.get_host_cpu_name(), "torch": torch.__version__, "threads": options.threads}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({**facts, "points": points}, indent=1) + "\n", encoding="utf-8")
        shown = "  ".join(f"{n} {x:.1f}" for n, x in point["own"].items())
        print(f"{case.title}: counted {point['theory']:.1f}  measured {shown}", flush=True)
    for runtime in runtimes:
        runtime.process.terminate()


if __name__ == "__main__":
    main()
