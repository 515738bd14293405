"""Drawing with text and shapes. In: places in pixels. Out: one SVG that is readable on light and on dark ground."""

from __future__ import annotations

from collections.abc import Sequence

from separable.report.markup import Html, element, join

# Blue, orange and green that also the colour-blind tell apart (Okabe, Ito 2008), darkened or lightened for the ground.
STYLE = """
svg { font: 14px system-ui, -apple-system, "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif;
  --paper: #fcfcfa; --ink: #1c1f24; --soft: #565c66; --rule: #c9cac5; --a: #0a5f9e; --b: #b1430a; --c: #00664c; }
@media (prefers-color-scheme: dark) { svg {
  --paper: #15171b; --ink: #e9e7e2; --soft: #a7adb8; --rule: #41464f; --a: #6cb8ee; --b: #f2985c; --c: #4fc3a1; } }
.ground { fill: var(--paper); } text { fill: var(--ink); } .soft { fill: var(--soft); } .bold { font-weight: 600; }
.small { font-size: 12px; }
.line { fill: none; stroke: var(--soft); stroke-width: 1.5; } .rule { stroke: var(--rule); fill: none; }
.a { --hue: var(--a); } .b { --hue: var(--b); } .c { --hue: var(--c); } .ink { --hue: var(--ink); }
.full { fill: var(--hue); } .faint { fill: var(--hue); fill-opacity: .18; } .edge { stroke: var(--hue); fill: none; }
.curve { stroke: var(--hue); fill: none; stroke-width: 2.5; } .dash { stroke-dasharray: 4 4; }
text.a, text.b, text.c { fill: var(--hue); }
"""


def picture(width: int, height: int, title: str, *parts: Html) -> str:
    """The whole drawing; ``title`` is what those hear who do not see it."""
    ground = element("rect", class_="ground", width=width, height=height, rx=8)
    return element(
        "svg",
        element("title", title),
        element("style", Html(STYLE)),
        ground,
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
    ).replace("><", ">\n<")


def text(x: float, y: float, words: str, class_: str = "", anchor: str = "middle") -> Html:
    """Words whose baseline is at y."""
    return element("text", words, x=_at(x), y=_at(y), text_anchor=anchor, class_=class_ or None)


def rect(x: float, y: float, width: float, height: float, class_: str) -> Html:
    """A rectangle from its upper left corner."""
    return element("rect", x=_at(x), y=_at(y), width=_at(width), height=_at(height), class_=class_)


def dot(x: float, y: float, class_: str) -> Html:
    """A filled disc."""
    return element("circle", cx=_at(x), cy=_at(y), r=6, class_=f"{class_} full")


def line(points: Sequence[tuple[float, float]], class_: str = "line") -> Html:
    """A line through all points."""
    return element("polyline", points=" ".join(f"{_at(x)},{_at(y)}" for x, y in points), class_=class_)


def arrow(x: float, y: float, length: float) -> Html:
    """An arrow to the right."""
    end = x + length
    return join(line([(x, y), (end, y)]), line([(end - 6, y - 5), (end, y), (end - 6, y + 5)]))


def grid(x: float, y: float, rows: int, columns: int, cell: float, class_: str = "rule") -> Html:
    """The lines of a table of cells."""
    right, foot = x + columns * cell, y + rows * cell
    across = [f"M{_at(x)} {_at(y + r * cell)}H{_at(right)}" for r in range(rows + 1)]
    down = [f"M{_at(x + c * cell)} {_at(y)}V{_at(foot)}" for c in range(columns + 1)]
    return element("path", d="".join(across + down), class_=class_)


def pixels(x: float, y: float, values: Sequence[Sequence[float]], cell: float, levels: int = 15) -> Html:
    """A grey image: values from 0 (the ground) to 1 (the ink), those beyond cut off."""
    shades: dict[int, list[str]] = {}
    for r, row in enumerate(values):
        for c, value in enumerate(row):
            level = round(min(max(float(value), 0.0), 1.0) * levels)
            shades.setdefault(level, []).append(f"M{_at(x + c * cell)} {_at(y + r * cell)}h{cell}v{cell}h-{cell}z")
    drawn = (
        element("path", d="".join(places), class_="ink full", fill_opacity=f"{level / levels:.2f}")
        for level, places in sorted(shades.items())
        if level
    )
    return join(*drawn, grid(x, y, 1, 1, cell * len(values), "rule"))


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
