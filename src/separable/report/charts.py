"""Pictures of numbers. In: speed-ups, errors, samples, losses. Out: SVG and HTML whose places are percentages.

Percentages let a chart follow the width of the page without a script. A shape says what kind of number it is: a ring is
counted, a diamond predicted, a disc measured; page.html defines the three shapes once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from separable.report.facts import Speedups
from separable.report.markup import Html, element
from separable.report.numbers import duration, ratio, share, short

MARGIN = 4.0  # percent of the width that stays free at both ends, so that no shape is cut
MOST_TICKS = 7  # what a phone has room for
STRIP_REACH = 1.25  # a strip ends at this multiple of the larger median: one late sample must not squeeze the others
SLOWER_NEEDS = 16  # percent of the width below 1× from which on the word "slower" has room
THIN, THICK = 2.5, 9.0  # pixels: the bar of a layer that takes no time, and of the one that takes most


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A logarithmic axis from ``low`` to ``high`` with marks at ``ticks``."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """The place of a value, in percent from the left; what lies outside (or is not above 0) is at the edge."""
        if value <= self.low:
            return MARGIN
        part = min(1.0, math.log(value / self.low) / math.log(self.high / self.low))
        return round(MARGIN + (100 - 2 * MARGIN) * part, 2)

    def grid(self, *, one: bool = False) -> str:
        """The axis's marks as a CSS background; ``one`` adds the line at 1 and shades what lies below it."""
        lines = [(self.at(tick), "var(--one)" if one and tick == 1 else "var(--rule)") for tick in self.ticks]
        layers = [f"linear-gradient({color} 0 0) {place}% 0/1px 100% no-repeat" for place, color in lines]
        if one:
            layers.append(f"linear-gradient(var(--wash) 0 0) 0 0/{self.at(1)}% 100% no-repeat")
        return f"--grid:{','.join(layers)}"

    def axis(self, label: Callable[[float], str], extra: Html | None = None) -> Html:
        """The marks' labels, and one more."""
        labels = [element("span", label(tick), style=f"left:{self.at(tick)}%") for tick in self.ticks]
        return element("div", *labels, extra, class_="axis", aria_hidden="true")


def speedup_scale(speedups: Iterable[Speedups]) -> Scale:
    """An axis that holds all of these and 1×, with marks at powers of two (finer where the range is small).

    >>> speedup_scale([Speedups(counted=6.0, predicted=None, measured=0.9)]).ticks
    (1.0, 2.0, 4.0)
    """
    values = [v for s in speedups for v in (s.counted, s.predicted, s.measured) if v is not None]
    low, high = min(0.8, *values, 1), max(1.25, *values, 1)
    octaves = math.log2(high / low)
    if octaves < 1:
        ticks = [1 + step / 10 for step in range(-9, 11)]
    elif octaves < 2:
        ticks = [2.0**k * fine for k in range(-4, 4) for fine in (1, 1.5)]
    else:
        every = math.ceil(octaves / MOST_TICKS)
        ticks = [2.0 ** (k * every) for k in range(-20, 21)]
    return Scale(low=low, high=high, ticks=tuple(t for t in ticks if low <= t <= high))


def error_scale(errors: Iterable[float]) -> Scale:
    """An axis that holds all positive errors, with a mark at each power of ten (or fewer).

    >>> error_scale([0.02, 0.0, 0.3]).ticks
    (0.01, 0.1, 1.0)
    """
    exponents = [math.log10(e) for e in errors if e > 0] or [-2.0, 0.0]
    low, high = math.floor(min(exponents)), max(math.ceil(max(exponents)), math.floor(min(exponents)) + 1)
    every = math.ceil((high - low) / MOST_TICKS)
    return Scale(low=10.0**low, high=10.0**high, ticks=tuple(10.0**k for k in range(low, high + 1, every)))


def dumbbell(scale: Scale, speedups: Speedups, weight: float = 0.2) -> Html:
    """Theory joined to practice: the bar runs from counted to measured (to predicted where nothing was measured).

    ``weight``, from 0 to 1, is how much the layer matters and shows as the bar's thickness.
    """
    far = speedups.predicted if speedups.measured is None else speedups.measured
    marks = [
        _shape(kind, scale.at(value))
        for kind in ("predicted", "counted", "measured")
        if (value := getattr(speedups, kind)) is not None
    ]
    thick = round(THIN + (THICK - THIN) * weight, 1)
    bar = None if far is None or speedups.counted is None else _bar(scale.at(speedups.counted), scale.at(far), thick)
    return element("svg", bar, *marks, class_="plot", aria_hidden="true")


def fall(scale: Scale, before: float, after: float) -> Html:
    """One layer's error before (ring) and after (disc)."""
    start, end = scale.at(before), scale.at(after)
    shapes = (_bar(start, end), _shape("ring", start), _shape("disc", end))
    return element("svg", *shapes, class_="plot", aria_hidden="true")


def strip(samples: Sequence[float], median: float, reach: float) -> Html:
    """Every sample as a line above a bar that ends at the median; ``reach`` is the right end of the axis."""
    ticks = [_line("sample", x, x, "12%", "88%") for x in (_linear(s, reach) for s in samples)]
    bar = element("rect", x="0", y="25%", width=f"{_linear(median, reach)}%", height="50%", class_="median")
    return element("svg", bar, *ticks, class_="strip", aria_hidden="true")


def strip_reach(medians: Sequence[float]) -> float:
    """Where the axis of a pair of strips ends; above 0."""
    return STRIP_REACH * max(medians) or 1.0


def curve(losses: Sequence[float]) -> Html:
    """Loss by step, on a logarithmic axis where all losses are above 0."""
    heights = [math.log(loss) for loss in losses] if min(losses) > 0 else list(losses)
    low, high = min(heights), max(heights)
    reach = (high - low) or 1.0
    last = max(1, len(heights) - 1)
    points = " ".join(f"{1000 * i / last:.1f},{100 * (high - y) / reach:.1f}" for i, y in enumerate(heights))
    line = element("polyline", points=points)
    return element("svg", line, viewBox="0 0 1000 100", preserveAspectRatio="none", class_="curve", aria_hidden="true")


def describe(speedups: Speedups) -> str:
    """The three numbers in words, for those who listen to the page."""
    kinds = {"counted": speedups.counted, "predicted": speedups.predicted, "measured": speedups.measured}
    return ", ".join(f"{kind} {ratio(value)}" for kind, value in kinds.items() if value is not None) or "no speed-up"


def speedup_axis(scale: Scale, *, words: bool = False) -> Html:
    """Labels such as 1×, 2×; with ``words`` also "slower" below 1×, where neither a mark nor the edge is in its way."""
    has_room = words and scale.at(1) > SLOWER_NEEDS and min(scale.ticks) == 1
    slower = element("span", "slower", style=f"left:{scale.at(1) / 2}%", class_="aside") if has_room else None
    return scale.axis(lambda tick: f"{tick:.3g}×", slower)


def error_axis(scale: Scale) -> Html:
    """Labels in percent."""
    return scale.axis(lambda tick: short(share(tick)))


def time_axis(reach: float) -> Html:
    """Round times from 0 to the end of a pair of strips."""
    decade = 10.0 ** math.floor(math.log10(reach))
    step = next(decade * part for part in (2, 1, 0.5, 0.2) if decade * part * 2 <= reach)
    ticks = [step * i for i in range(int(reach / step) + 1)]
    labels = [element("span", short(duration(t)), style=f"left:{_linear(t, reach)}%") for t in ticks]
    return element("div", *labels, class_="axis times", aria_hidden="true")


def kind_label(kind: str) -> Html:
    """``counted``, ``predicted`` or ``measured`` with its shape."""
    shape = element("svg", element("use", href=f"#{kind}", x="7", y="7"), class_="key", aria_hidden="true")
    return element("span", shape, kind, class_=f"kind {kind}")


def _shape(kind: str, place: float) -> Html:
    return element("use", href=f"#{kind}", x=f"{place}%", y="50%")


def _bar(start: float, end: float, thick: float = THIN) -> Html:
    return _line("bar", start, end, "50%", "50%", stroke_width=thick)


def _line(class_: str, x1: float, x2: float, y1: str, y2: str, **attributes: float) -> Html:
    return element("line", x1=f"{x1}%", x2=f"{x2}%", y1=y1, y2=y2, class_=class_, **attributes)


def _linear(value: float, reach: float) -> float:
    return round(100 * min(1.0, value / reach), 2)
