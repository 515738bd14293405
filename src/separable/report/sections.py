"""The page's sections, in their order. In: facts. Out: markup; a section about nothing is left out."""

from __future__ import annotations

from collections.abc import Sequence

from separable.report import charts, tables
from separable.report.facts import Facts, Layer, Speedups
from separable.report.markup import Html, element, join, section
from separable.report.numbers import amount, plain, ratio, share
from separable.report.outcome import outcome
from separable.report.tables import name_of, number

MOST_ROWS = 40  # a longer list starts folded


def sections(facts: Facts) -> Html:
    """Everything between the page's head and its foot."""
    return join(
        outcome(facts),
        _theory(facts),
        _layers(facts),
        _calibration(facts),
        _distillation(facts),
        _left_alone(facts),
        _making(facts),
    )


def _theory(facts: Facts) -> Html:
    whole = facts.speedups
    scale = charts.speedup_scale([whole, *(layer.speedups for layer in facts.layers)])
    heads = [element("span", charts.kind_label(kind), class_=kind) for kind in ("counted", "predicted", "measured")]
    top = element("div", element("span"), charts.speedup_axis(scale, words=True), *heads, class_="bell top")
    rows = [element("li", _bell(scale, "Whole network", "", whole), class_="whole")]
    weights, of_what = _weights(facts.layers)
    for i, layer in enumerate(facts.layers):
        label = "kept" if layer.is_kept else layer.after.label
        kept = "layer kept" if layer.is_kept else "layer"
        gain = layer.speedups
        inner = _bell(scale, layer.name, label, gain, weight=weights[i], href=f"#layer-{i}")
        rows.append(element("li", inner, class_=kept))
    words = (
        "Speed-up of the whole network and of each layer, on a logarithmic axis. The bar runs from what the counted "
        "MACs promise (ring) to what the clock gives (disc); the diamond is the roofline's prediction. "
        f"Left of 1× is slower than before. The thicker a layer's bar, the more of the original's {of_what} it took."
    )
    figure = element(
        "figure", top, element("ol", *rows), element("figcaption", words), id="theory", style=scale.grid(one=True)
    )
    return section("Theory beside practice", TOOLS if facts.layers else None, figure, MORE)


def _weights(layers: Sequence[Layer]) -> tuple[list[float], str]:
    """How much each layer took of the original, as a part of what the largest one took; and of what."""
    times = [layer.before.measured_s or 0.0 for layer in layers]
    if any(times):
        return [time / max(times) for time in times], "measured time"
    most = max((layer.before.macs for layer in layers), default=0) or 1
    return [layer.before.macs / most for layer in layers], "counted MACs"


def _bell(
    scale: charts.Scale, text: str, label: str, gain: Speedups, *, weight: float = 1.0, href: str | None = None
) -> Html:
    numbers = [
        element("span", number(value, ratio(value)), class_=f"num {kind}", title=kind)
        for kind, value in (("counted", gain.counted), ("predicted", gain.predicted), ("measured", gain.measured))
    ]
    title = element("span", name_of(text), element("small", label) if label else None, class_="name")
    bell = (title, charts.dumbbell(scale, gain, weight), *numbers)
    if href is None:
        return element("div", *bell, class_="bell")
    return element("a", *bell, class_="bell", href=href, aria_label=f"{text} {label}: {charts.describe(gain)}")


TOOLS = Html(
    '<form class="tools" role="search" hidden>'
    '<label>Filter <input type="search" name="filter" autocomplete="off" placeholder="name, shape, family"></label>'
    '<label>Order <select name="order"></select></label>'
    '<button type="button" name="direction" aria-label="Reverse the order" title="Reverse the order"></button>'
    '<label class="tick"><input type="checkbox" name="kept" checked> show kept layers</label>'
    '<output aria-live="polite"></output></form>'
)
MORE = Html('<p class="all" hidden><button type="button"></button></p>')


def _layers(facts: Facts) -> Html:
    if not facts.layers:
        return section("Layers", element("p", "The network has no convolution that could be rewritten."))
    kept = sum(layer.is_kept for layer in facts.layers)
    words = (
        f"Rewritten: {len(facts.layers) - kept} of {len(facts.layers)} layers. Costs are for all "
        "calls of a layer in one forward. Error is relative and squared: the share of the output's energy that is lost."
    )
    hint = element("span", " Open a row to see every alternative that was priced.", class_="hint")
    table = element("div", tables.layers(facts), class_="scroll wide")
    return section("Layers", element("p", words, hint, class_="note"), table)


def _calibration(facts: Facts) -> Html | None:
    fitted = [
        (layer, layer.fit_error_before, layer.fit_error_after)
        for layer in facts.layers
        if layer.fit_error_before is not None and layer.fit_error_after is not None
    ]
    if not fitted:
        return None
    scale = charts.error_scale([error for _, before, after in fitted for error in (before, after)])
    heads = [element("span", text) for text in ("before", "after")]
    top = element("div", element("span"), charts.error_axis(scale), *heads, class_="bell top pair")
    rows = [element("li", _fall(scale, layer, before, after)) for layer, before, after in fitted]
    words = (
        f"Error of each rewritten layer on {facts.inputs or 'the'} calibration inputs, measured before (ring) and "
        "after (disc) it was fitted to what the original computes."
    )
    figure = element(
        "figure", top, element("ol", *rows), element("figcaption", words), id="calibration", style=scale.grid()
    )
    return section("Calibration", _folded(figure, len(fitted)))


def _fall(scale: charts.Scale, layer: Layer, before: float, after: float) -> Html:
    title = element("span", name_of(layer.name), element("small", layer.after.label), class_="name")
    numbers = [element("span", number(value, share(value)), class_="num") for value in (before, after)]
    return element("div", title, charts.fall(scale, before, after), *numbers, class_="bell pair")


def _distillation(facts: Facts) -> Html | None:
    history = facts.distillation
    if history is None or not history.losses:
        return None
    first, last = history.losses[0], history.losses[-1]
    heights = [element("span", plain(loss)) for loss in (max(history.losses), min(history.losses))]
    ends = element(
        "div",
        element("span", f"step {history.steps[0]:,}"),
        element("span", f"step {history.steps[-1]:,}"),
        class_="ends",
    )
    words = join(
        "Measured loss against the teacher, logarithmic: ", number(first, plain(first)), " at the first step, ",
        number(last, plain(last)), " at the last.", element("output", aria_live="polite"),
    )  # fmt: skip
    return section(
        "Distillation",
        element(
            "figure",
            element("div", *heights, class_="heights", aria_hidden="true"),
            charts.curve(history.losses),
            ends,
            element("figcaption", words),
            id="distillation",
        ),
    )


def _left_alone(facts: Facts) -> Html | None:
    if not facts.skipped and not facts.unknown:
        return None
    skipped = [
        element("tr", element("th", name_of(s.name), scope="row"), element("td", s.reason)) for s in facts.skipped
    ]
    heads = element("thead", element("tr", element("th", "Layer", scope="col"), element("th", "Reason", scope="col")))
    table = element("table", heads, element("tbody", *skipped), class_="skipped") if skipped else None
    unknown = join(
        "Operations that were not understood, and so are missing from the counts: ", _list(facts.unknown), "."
    )
    return section(
        "Left alone", _folded(table, len(skipped)), element("p", unknown, class_="unknown") if facts.unknown else None
    )


def _list(names: Sequence[str]) -> Html:
    return join(*(join(", " if i else "", element("code", name)) for i, name in enumerate(names)))


def _making(facts: Facts) -> Html:
    machine = facts.machine
    rates = [
        f"{amount(machine.fma_per_s)} MACs/s" if machine.fma_per_s else "",
        amount(machine.bytes_per_s, "B/s") if machine.bytes_per_s else "",
    ]
    entries = {
        "Machine": machine.name,
        "Cores": f"{machine.cores}, {facts.threads} used",
        "Instructions": ", ".join(machine.instruction_sets),
        "Peak, measured": " · ".join(filter(None, rates)),
        "Engine": facts.engine,
        "Calibration data": f"{facts.inputs:,} inputs" if facts.inputs else "none: weights only",
        "Seed": "" if facts.seed is None else str(facts.seed),
        "Versions": " · ".join(f"{name} {version}" for name, version in facts.versions.items()),
    }
    pairs = [
        element("div", element("dt", term), element("dd", text), class_="pair")
        for term, text in entries.items()
        if text
    ]
    notes = [element("li", note) for note in facts.notes]
    return section(
        "How this was made",
        element("ul", *notes, class_="notes") if notes else None,
        element("dl", *pairs, class_="machine"),
        KINDS,
    )


KINDS = join(
    element(
        "p",
        charts.kind_label("counted"), " is arithmetic from shapes: multiply-accumulates (MACs) of convolutions and "
        "matrix products, bias not counted. ",
        charts.kind_label("predicted"), " is a model: a roofline of this machine for time, the plan for error. ",
        charts.kind_label("measured"), " was observed: time on this machine's clock, quality on data. ",
        "A dash is a number that is not known.",
        class_="note",
    ),
    Html('<p class="save" hidden><a download="separable-facts.json">Save these facts as JSON</a></p>'),
)  # fmt: skip


def _folded(content: Html | None, rows: int) -> Html | None:
    """Content behind a heading that opens it, where it is too long to scroll past."""
    return content if rows <= MOST_ROWS else element("details", element("summary", f"All {rows} layers"), content)
