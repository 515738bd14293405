"""The page's tables. In: facts. Out: before and after at a glance; every layer with what it became and what was priced.

Every number is a ``<data value>``: the text is rounded to be read, the value is exact and is what sorting uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from separable.report.charts import describe, dumbbell, kind_label, speedup_axis, speedup_scale
from separable.report.facts import Elsewhere, Facts, Layer, Metric, Option
from separable.report.markup import Html, element, join
from separable.report.numbers import ABSENT, amount, duration, plain, ratio, several, share

Value = float | None
Show = Callable[[Value], str]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number that every option has: its key, its name, which kind of number it is, how to get and to show it."""

    key: str
    title: str
    kind: str
    of: Callable[[Option], Value]
    show: Show


@dataclass(frozen=True, kw_only=True)
class Column:
    """A number that every layer has; ``side`` is ``before``, ``after`` or empty."""

    key: str
    title: str
    kind: str
    side: str
    of: Callable[[Layer], Value]
    show: Show


COSTS = (
    Quantity(key="macs", title="MACs", kind="counted", of=lambda o: o.macs, show=amount),
    Quantity(key="parameters", title="Parameters", kind="counted", of=lambda o: o.parameters, show=amount),
    Quantity(key="predicted_s", title="Time", kind="predicted", of=lambda o: o.predicted_s, show=duration),
    Quantity(key="measured_s", title="Time", kind="measured", of=lambda o: o.measured_s, show=duration),
)
ERROR = Quantity(key="error", title="Error", kind="predicted", of=lambda o: o.error, show=share)


def number(value: Value, text: str, **attributes: str) -> Html:
    """A number to read with its exact value, or a dash."""
    if value is None:
        return element("span", ABSENT, class_="none", title="not known")
    return element("data", text, value=repr(value), **attributes)


def name_of(layer: str) -> Html:
    """A module's name, isolated from the text around it; the model itself has an empty one."""
    return element("bdi", layer or "(the model itself)")


def medians(facts: Facts) -> tuple[Value, Value]:
    """The measured latency before and after."""
    was, now = facts.before.measured, facts.after.measured
    return was.median_s if was else None, now.median_s if now else None


def glance(facts: Facts) -> Html:
    """Before and after for the whole network."""
    was, now = facts.before, facts.after
    rows = [
        _compared("MACs", "counted", was.macs, now.macs, amount, "fewer", "more"),
        _compared("Parameters", "counted", was.parameters, now.parameters, amount, "fewer", "more"),
        _compared(
            "Weights", "counted", was.weight_bytes, now.weight_bytes, lambda v: amount(v, "B"), "smaller", "larger"
        ),
        _compared("Time", "predicted", was.predicted_s, now.predicted_s, duration, "faster", "slower"),
        _compared("Latency", "measured", *medians(facts), duration, "faster", "slower", note=_latency_note(facts)),
        *(_elsewhere(other) for other in facts.elsewhere),
        _after_only("Output error", facts.output_error, "share of the output's energy lost"),
        _after_only("Same top answer", facts.same_top1, "share of inputs"),
        *(_metric(metric) for metric in facts.metrics),
    ]
    heads = [element("th", text, scope="col") for text in ("Quantity", "Before", "After", "Change")]
    body = element("tbody", *rows)
    return element("table", element("thead", element("tr", *heads)), body, class_="glance", id="glance")


def layers(facts: Facts) -> Html:
    """One body of two rows a layer: its numbers, and (opened on demand) the alternatives that were priced."""
    columns = _columns(facts)
    bodies = [_layer(i, layer, columns) for i, layer in enumerate(facts.layers)]
    return element("table", _head(columns), *bodies, class_="layers", id="layers")


def _compared(
    title: str, kind: str, before: Value, after: Value, show: Show, less: str, more: str, *, note: str = ""
) -> Html | None:
    if before is None and after is None:
        return None
    change = before / after if before and after else None
    word = "" if change is None else "the same" if change == 1 else less if change > 1 else more
    times = None if change == 1 else number(change, ratio(change if change is None or change > 1 else 1 / change))
    return _row(title, kind, (before, show), (after, show), join(times, " ", word), note)


def _elsewhere(other: Elsewhere) -> Html | None:
    times = (other.before.median_s, other.after.median_s)
    return _compared(f"Latency, {other.engine}", "measured", *times, duration, "faster", "slower", note=other.verdict)


def _after_only(title: str, value: Value, note: str) -> Html | None:
    return None if value is None else _row(title, "measured", (None, None), (value, share), None, note)


def _metric(metric: Metric) -> Html:
    show: Show = share if metric.is_share else plain
    change = metric.after - metric.before
    size = f"{abs(change) * 100:.1f} points" if metric.is_share else plain(abs(change))
    text = "the same" if change == 0 else f"{'+' if change > 0 else '−'}{size}"
    return _row(metric.name, "measured", (metric.before, show), (metric.after, show), number(change, text), "")


def _row(
    title: str,
    kind: str,
    before: tuple[Value, Show | None],
    after: tuple[Value, Show | None],
    change: Html | None,
    note: str,
) -> Html:
    cells = [
        element("td", None if show is None else number(value, show(value)), class_=side)
        for side, (value, show) in (("before", before), ("after", after))
    ]
    small = element("small", note) if note else None
    head = element("th", element("span", title, class_="title"), kind_label(kind), small, scope="row")
    return element("tr", head, *cells, element("td", change, class_="change"))


def _latency_note(facts: Facts) -> str:
    now = facts.after.measured
    if now is None:
        return ""
    samples = f"median of {len(now.samples_s)}, spread {duration(now.spread_s)}"
    return f"{samples}, batch {facts.batch}, {several(facts.threads, 'thread')}"


def _columns(facts: Facts) -> list[Column]:
    found = [_column(q, side) for q in COSTS for side in ("before", "after")] + [_column(ERROR, "after")]
    kind = "measured" if facts.inputs else "predicted"
    found.append(
        Column(key="sensitivity", title="Sensitivity", kind=kind, side="", of=lambda la: la.sensitivity, show=plain)
    )
    return [column for column in found if any(column.of(layer) is not None for layer in facts.layers)]


def _column(quantity: Quantity, side: str) -> Column:
    def of(layer: Layer) -> Value:
        return quantity.of(layer.before if side == "before" else layer.after)

    alone = quantity is ERROR
    key = quantity.key if alone else f"{quantity.key}_{side}"
    return Column(
        key=key, title=quantity.title, kind=quantity.kind, side="" if alone else side, of=of, show=quantity.show
    )


def _head(columns: Sequence[Column]) -> Html:
    first = [
        element("th", title, scope="col", rowspan="2", data_key=key)
        for title, key in (("Layer", "name"), ("Became", "became"))
    ]
    second = []
    for column in columns:
        label = join(column.title, kind_label(column.kind))
        if not column.side:
            first.append(element("th", label, scope="col", rowspan="2", data_key=column.key, class_="num"))
            continue
        if column.side == "before" or not any(
            c.title == column.title and c.kind == column.kind and c.side == "before" for c in columns
        ):
            first.append(element("th", label, scope="colgroup", colspan=_width(column, columns), class_="group"))
        second.append(element("th", column.side, scope="col", data_key=column.key, class_="num"))
    return element("thead", element("tr", *first), element("tr", *second))


def _width(column: Column, columns: Sequence[Column]) -> str:
    return str(sum(c.title == column.title and c.kind == column.kind for c in columns))


def _layer(index: int, layer: Layer, columns: Sequence[Column]) -> Html:
    calls = f", {layer.calls} calls" if layer.calls > 1 else ""
    name = element("th", name_of(layer.name), element("small", f"{layer.spec}{calls}"), scope="row", data_key="name")
    label = "kept" if layer.is_kept else layer.after.label
    became = element("td", element("b", label), element("small", layer.why), class_="became", data_key="became")
    cells = [
        element(
            "td",
            number(value := column.of(layer), column.show(value)),
            class_=f"num {column.side}".strip(),
            data_key=column.key,
            data_label=f"{column.title}, {column.kind}",
        )
        for column in columns
    ]
    more = element("tr", element("td", _options(layer), colspan=str(2 + len(columns))), class_="more")
    kept = "layer kept" if layer.is_kept else "layer"
    return element("tbody", element("tr", name, became, *cells, class_="main"), more, class_=kept, id=f"layer-{index}")


def _options(layer: Layer) -> Html:
    if not layer.options:
        return element("p", "No alternative was priced for this layer.")
    gains = [option.over(layer.before) for option in layer.options]
    scale = speedup_scale(gains)
    quantities = [q for q in (*COSTS, ERROR) if any(q.of(option) is not None for option in layer.options)]
    heads = [element("th", join(q.title, kind_label(q.kind)), scope="col", class_="num") for q in quantities]
    axis = element("th", element("span", "Speed-up", class_="unseen"), speedup_axis(scale), scope="col")
    rows = []
    for option, gain in zip(layer.options, gains, strict=True):
        chosen = (option.family, option.rank) == (layer.after.family, layer.after.rank)
        mark = element("span", "✓ chosen", class_="mark") if chosen else None
        cells = [element("td", number(q.of(option), q.show(q.of(option))), class_="num") for q in quantities]
        plot = element("td", dumbbell(scale, gain), element("span", describe(gain), class_="unseen"), class_="chart")
        name = element("th", option.label, mark, scope="row")
        rows.append(element("tr", name, plot, *cells, class_="chosen" if chosen else None))
    head = element("thead", element("tr", element("th", "Alternative", scope="col"), axis, *heads))
    table = element("table", head, element("tbody", *rows), class_="options", style=scale.grid(one=True))
    return element("div", table, class_="scroll")
