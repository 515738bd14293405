"""The tutorial's figures. In: nothing. Out: SVG files beside this one; every number in them is the library's.

    python docs/figures/draw.py

A figure with words is drawn in both languages, one without in one file for both.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from canvas import arrow, dot, grid, line, picture, pixels, rect, text

from separable import ConvSpec, count
from separable.factor import separate
from separable.report.markup import Html, join

HERE = Path(__file__).parent
CHINESE = {
    "depthwise": "逐通道",
    "pointwise": "逐点",
    "input": "输入",
    "output": "输出",
    "kernels": "个卷积核",
    "channels out": "输出通道",
    "times fewer MACs": "乘加次数减少倍数",
    "MACs a byte": "每字节乘加次数",
    "10⁹ MACs a second": "每秒乘加次数（10⁹）",
    "memory binds": "受内存带宽限制",
    "arithmetic binds": "受算力限制",
    "dense": "普通卷积",
    "shortcut": "捷径",
    "no activation": "无激活",
}
Say = Callable[[str], str]
DENSE = ConvSpec(3, 256, kernel=5, size=12)
PAIR = (ConvSpec(3, 3, kernel=5, size=12, groups=3), ConvSpec(3, 256, kernel=1, size=8))
STEP = 66  # pixels between two bars of a block
FMA_PER_S, BYTES_PER_S = 100e9, 10e9  # the example machine of the tutorial's section 12


def figures() -> dict[str, str]:
    """Every file's name and text."""
    found = {}
    for draw in (convolution, sobel, disc, separable, ratio, blocks, roofline):
        english, chinese = draw(str), draw(lambda words: CHINESE[words])
        found[f"{draw.__name__}.svg"] = english
        if english != chinese:
            found[f"{draw.__name__}.zh.svg"] = chinese
    return {name: f"{svg}\n" for name, svg in found.items()}


def convolution(say: Say) -> str:
    return picture(
        720,
        290,
        "12×12×3 → 8×8×256",
        _maps(40, 55, 12, 3, 12, window=5),
        text(112, 245, f"{say('input')} 12×12×3"),
        arrow(225, 130, 40),
        _maps(300, 95, 5, 3, 12, of="abc"),
        text(342, 245, f"256 {say('kernels')} 5×5×3"),
        arrow(405, 130, 40),
        _maps(480, 80, 8, 8, 12, spot=True, more="256"),
        text(560, 245, f"{say('output')} 8×8×256"),
        text(360, 275, f"5·5·3 × 8·8·256 = {DENSE.macs:,} MACs", "bold"),
    )


def separable(say: Say) -> str:
    depthwise, pointwise = PAIR
    return picture(
        860,
        300,
        "12×12×3 → 8×8×3 → 8×8×256",
        _maps(30, 60, 12, 3, 12, of="abc"),
        text(115, 250, "12×12×3"),
        *(_kernel(255, 85 + 30 * i, 5, 5, hue) for i, hue in enumerate("abc")),
        arrow(215, 130, 30),
        arrow(292, 130, 30),
        text(268, 50, say("depthwise"), "soft"),
        text(268, 250, "3 × 5×5"),
        text(268, 284, f"{depthwise.macs:,} MACs", "bold"),
        _maps(345, 85, 8, 3, 12, of="abc"),
        text(405, 250, "8×8×3"),
        arrow(475, 130, 30),
        *(rect(518 + 9 * i, 126 - 7 * i, 9, 9, f"{hue} full") for i, hue in enumerate("abc")),
        arrow(558, 130, 30),
        text(532, 50, say("pointwise"), "soft"),
        text(532, 250, "256 × 1×1×3"),
        text(532, 284, f"{pointwise.macs:,} MACs", "bold"),
        _maps(620, 85, 8, 8, 12, spot=True, more="256"),
        text(715, 250, "8×8×256"),
        text(715, 284, f"Σ {depthwise.macs + pointwise.macs:,}", "bold"),
    )


def sobel(_: Say) -> str:
    matrix = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    (pair,) = separate(matrix).terms
    column, row = pair.column.tolist(), pair.row.tolist()
    return picture(
        560,
        190,
        "[1, 2, 1]ᵀ · [−1, 0, 1]",
        _numbers(60, 25, [[value] for value in column]),
        text(150, 102, "·", "bold"),
        _numbers(190, 71, [row]),
        text(368, 102, "=", "bold"),
        _numbers(400, 25, matrix),
    )


def disc(_: Say) -> str:
    x = np.arange(-7, 8)
    whole = x[:, None] ** 2 + x**2 <= 7**2
    terms = separate(whole, 0).terms
    shown = [text(82, 185, "15×15"), pixels(22, 30, whole, 8)]
    for i, r in enumerate((1, 2, 3, 5), start=1):
        near = sum(np.outer(pair.column, pair.row) for pair in terms[:r])
        error = np.square(whole - near).sum() / whole.sum()
        left = 22 + i * 150
        shown += [pixels(left, 30, near, 8), text(left + 60, 185, f"r = {r}")]
        shown.append(text(left + 60, 207, f"{error:.4f}", "soft"))
    return picture(764, 225, "15×15, r = 1, 2, 3, 5", *shown)


def ratio(say: Say) -> str:
    def at(c_out: float, gain: float) -> tuple[float, float]:
        return 70 + 500 * math.log2(c_out / 4) / 9, 280 - 250 * gain / 50

    parts = [_axes(70, 30, 500, 250)]
    for c_out in (4, 16, 64, 256, 1024):
        x, y = at(c_out, 0)
        parts.append(text(x, y + 20, f"{c_out}", "soft"))
    for gain in (0, 10, 20, 30, 40, 50):
        x, y = at(4, gain)
        parts += [line([(x, y), (x + 500, y)], "rule"), text(x - 10, y + 5, f"{gain}", "soft", "end")]
    for k, hue in ((3, "a"), (5, "b"), (7, "c")):
        gains = [(c, _gain(k, c)) for c in (4 * 2 ** (step / 4) for step in range(37))]
        parts.append(line([at(c, gain) for c, gain in gains], f"{hue} curve"))
        parts.append(line([at(4, k * k), at(2048, k * k)], f"{hue} edge dash"))
        parts.append(text(580, at(4, k * k)[1] + 5, f"{k}×{k}: < {k * k}", f"{hue} bold", "start"))
    parts += [text(320, 325, say("channels out")), text(70, 18, say("times fewer MACs"), anchor="start")]
    return picture(690, 340, "1 / (1/c_out + 1/k²)", *parts)


def blocks(say: Say) -> str:
    depthwise = "dw 3×3"
    rows = [
        ("MobileNetV1", [(64, depthwise), (64, "1×1"), (128, "")]),
        ("MobileNetV2", [(24, "1×1"), (144, depthwise), (144, "1×1"), (24, "")]),
        ("MobileNetV3", [(40, "1×1"), (120, depthwise), (120, "SE"), (120, "1×1"), (40, "")]),
    ]
    parts: list[Html] = []
    for index, ((name, steps), left) in enumerate(zip(rows, (25, 235, 515), strict=True)):
        parts.append(text(left, 30, name, "bold", "start"))
        for x, (channels, operation) in zip(range(left, 800, STEP), steps, strict=False):
            parts += [rect(x, 150 - channels / 2, 14, channels, "a full"), text(x + 7, 245, f"{channels}", "soft")]
            if operation:
                parts += [arrow(x + 18, 150, STEP - 22), text(x + 7 + STEP / 2, 141, operation, "small")]
        if index:
            end = left + STEP * (len(steps) - 1) + 7
            parts.append(line([(left + 7, 122), (left + 7, 62), (end, 62), (end, 122)], "line dash"))
            parts.append(text((left + end) / 2, 56, say("shortcut"), "soft"))
            parts.append(text(end + 7, 267, say("no activation"), "soft", "end"))
    return picture(820, 285, "MobileNetV1, V2, V3", *parts)


def roofline(say: Say) -> str:
    def at(density: float, speed: float) -> tuple[float, float]:
        return 80 + 460 * math.log10(density / 0.5) / math.log10(400), 280 - 230 * math.log10(speed / 4) / math.log10(
            40
        )

    ridge = FMA_PER_S / BYTES_PER_S
    roof = [at(0.5, 0.5 * BYTES_PER_S / 1e9), at(ridge, FMA_PER_S / 1e9), at(200, FMA_PER_S / 1e9)]
    parts = [_axes(80, 50, 460, 230), line(roof, "ink curve")]
    for density in (0.5, 1, 10, 100):
        x, y = at(density, 4)
        parts.append(text(x, y + 20, f"{density:g}", "soft"))
    for speed in (10, 100):
        x, y = at(0.5, speed)
        parts += [line([(x, y), (x + 460, y)], "rule"), text(x - 10, y + 5, f"{speed}", "soft", "end")]
    layers = {
        "dense": ConvSpec(128, 128, kernel=3, size=28, padding=1),
        "pointwise": ConvSpec(128, 128, kernel=1, size=28),
        "depthwise": ConvSpec(128, 128, kernel=3, size=28, padding=1, groups=128),
    }
    for (name, spec), hue in zip(layers.items(), "abc", strict=True):
        density = count(spec).macs_per_byte
        x, y = at(density, min(FMA_PER_S, density * BYTES_PER_S) / 1e9)
        parts += [line([(x, y), (x, 280)], f"{hue} edge dash"), dot(x, y, hue)]
        parts.append(text(x + 10, y + 24, f"{say(name)} {density:.1f}", f"{hue} bold", "start"))
    x, _ = at(ridge, 100)
    parts += [
        text(x - 10, 40, say("memory binds"), "soft", "end"),
        text(x + 10, 40, say("arithmetic binds"), "soft", "start"),
    ]
    parts += [text(310, 325, say("MACs a byte")), text(80, 18, say("10⁹ MACs a second"), anchor="start")]
    return picture(640, 340, "roofline", *parts)


def _gain(k: int, c_out: float) -> float:
    return 1 / (1 / c_out + 1 / k**2)


def _axes(x: float, y: float, width: float, height: float) -> Html:
    return line([(x, y), (x, y + height), (x + width, y + height)])


def _maps(
    x: float, y: float, size: int, deep: int, cell: float, *, of: str = "", window: int = 0,
    spot: bool = False, more: str = "",
) -> Html:  # fmt: skip
    """A pile of ``deep`` maps, the first in front; ``of`` colours them, ``window`` or ``spot`` marks a place."""
    wide = size * cell
    pile = []
    for index in reversed(range(deep)):
        left, top = x + 9 * index, y - 7 * index
        hue = of[index % len(of)] if of else "ink"
        pile += [rect(left, top, wide, wide, "ground"), rect(left, top, wide, wide, f"{hue} faint")]
        pile.append(grid(left, top, 1, 1, wide, f"{hue} edge"))
    pile.append(grid(x, y, size, size, cell))
    if window:
        pile += [rect(x + cell, y + cell, window * cell, window * cell, "b faint")]
        pile.append(grid(x + cell, y + cell, 1, 1, window * cell, "b edge"))
    if spot:
        pile.append(rect(x + cell, y + cell, cell, cell, "b full"))
    if more:
        pile.append(text(x + wide + 9 * deep + 4, y - 7 * deep + 12, f"… {more}", "soft", "start"))
    return join(*pile)


def _kernel(x: float, y: float, rows: int, columns: int, hue: str) -> Html:
    return join(rect(x, y, columns * 5, rows * 5, f"{hue} faint"), grid(x, y, rows, columns, 5, f"{hue} edge"))


def _numbers(x: float, y: float, rows: Sequence[Sequence[int]]) -> Html:
    cells = [
        join(
            rect(x + 46 * c, y + 46 * r, 46, 46, "a faint" if value > 0 else "b faint" if value < 0 else "ground"),
            text(x + 46 * c + 23, y + 46 * r + 29, f"{value}".replace("-", "−"), "bold"),
        )
        for r, row in enumerate(rows)
        for c, value in enumerate(row)
    ]
    return join(*cells, grid(x, y, len(rows), len(rows[0]), 46))


if __name__ == "__main__":
    for name, svg in figures().items():
        (HERE / name).write_text(svg, encoding="utf-8")
