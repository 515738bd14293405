"""The outcome, at the top of the page. In: facts. Out: the headline, three speed-ups, before and after, the budget."""

from __future__ import annotations

from collections.abc import Iterable

from separable.report import charts, tables
from separable.report.facts import Facts
from separable.report.markup import Html, element, join, section
from separable.report.numbers import amount, duration, ratio, several, share
from separable.report.tables import Value, number
from separable.spec import Budget

SAMPLES_NEEDED = 2  # one sample is no distribution


def outcome(facts: Facts) -> Html:
    """What came out of it, at a glance."""
    return join(_opening(facts), _warnings(facts), _before_and_after(facts))


def headline(facts: Facts) -> str:
    """The outcome in a few words."""
    gain, (was, now) = facts.speedups, tables.medians(facts)
    if all(layer.is_kept for layer in facts.layers):
        start, promise = "No layer was rewritten.", ""
    else:
        start, promise = "", f"The MACs alone promise {ratio(gain.counted)}."
    if was is None or now is None:
        guess = f"The roofline predicts {ratio(gain.predicted)}." if gain.predicted and promise else ""
        parts = [start, promise, guess, "Nothing was measured."]
    else:
        how = {
            "faster": f"Measured {ratio(gain.measured)} faster:",
            "slower": f"Measured slower, at {ratio(gain.measured)} the speed:",
            "unclear": "Whether it is faster is unclear, the spread hides it:",
            None: "Measured:",
        }[facts.verdict]
        parts = [start, how, f"{duration(was)} before, {duration(now)} after.", promise]
    return " ".join(filter(None, parts))


def _opening(facts: Facts) -> Html:
    about = [
        facts.date,
        facts.input,
        f"batch {facts.batch}",
        several(facts.threads, "thread"),
        facts.engine,
    ]
    gain = facts.speedups
    clock = _word(gain.measured, "faster, on the clock", "slower, on the clock")
    parts = (
        ("counted", gain.counted, _word(gain.counted, "fewer MACs", "more MACs")),
        ("predicted", gain.predicted, _word(gain.predicted, "faster, by the roofline", "slower, by the roofline")),
        ("measured", gain.measured, "unclear, within the spread" if facts.verdict == "unclear" else clock),
    )
    figures = [
        element("li", charts.kind_label(kind), number(value, ratio(value)), element("span", text), class_=kind)
        for kind, value, text in parts
    ]
    return element(
        "header",
        element("p", "separable · report", class_="eyebrow"),
        element("h1", element("bdi", facts.model)),
        element("p", *(element("span", part) for part in about if part), class_="about"),
        element("p", headline(facts), class_="lead"),
        element("ul", *figures, class_="hero", aria_label="Speed-up of the whole network"),
    )


def _word(gain: Value, better: str, worse: str) -> str:
    return "not known" if gain is None else "no change" if gain == 1 else better if gain > 1 else worse


def _warnings(facts: Facts) -> Html | None:
    if not facts.warnings:
        return None
    items = [element("li", element("b", "Warning: "), text) for text in facts.warnings]
    return element("section", element("ul", *items), class_="warnings", aria_label="Warnings")


def _before_and_after(facts: Facts) -> Html:
    budget = [element("p", asked, class_="budget") for asked in _budget(facts)]
    side = element("div", _strips(facts), *budget, class_="side")
    return section("Before and after", element("div", tables.glance(facts), side, class_="two"))


def _budget(facts: Facts) -> Iterable[Html]:
    """One sentence a limit: what was asked, what was reached, and whether that is within."""
    for name, limit in (facts.budget.to_json() if facts.budget else {}).items():
        kind, before, after = _reached(facts, name)
        is_share = limit < 1 and name in ("latency", "macs", "parameters")
        reached = after if not is_share else after / before if after is not None and before else None
        show: tables.Show = share if is_share or name == "error" else duration if name == "latency_s" else amount
        met = "" if reached is None else " ✓ within" if reached <= limit else " ✗ over"
        asked = f"Budget: {Budget(**{name: limit})}. Reached "
        yield join(asked, number(reached, show(reached)), " ", charts.kind_label(kind), element("b", met))


def _reached(facts: Facts, name: str) -> tuple[str, Value, Value]:
    """Which kind of number a limit is held against, and that number before and after."""
    if name == "error":
        return "predicted", None, facts.planned_error
    if name in ("macs", "parameters"):
        return "counted", getattr(facts.before, name), getattr(facts.after, name)
    before, after = tables.medians(facts)
    if before is None or after is None:
        return "predicted", facts.before.predicted_s, facts.after.predicted_s
    return "measured", before, after


def _strips(facts: Facts) -> Html | None:
    measured = [("before", facts.before.measured), ("after", facts.after.measured)]
    known = [(side, m) for side, m in measured if m and len(m.samples_s) >= SAMPLES_NEEDED]
    if len(known) < len(measured):
        return None
    reach = charts.strip_reach([m.median_s for _, m in known])
    late = sum(sample > reach for _, m in known for sample in m.samples_s)
    rows = [
        element("div", element("span", side), charts.strip(m.samples_s, m.median_s, reach), class_=f"strips {side}")
        for side, m in known
    ]
    beyond = f" {late} later than the axis reaches are drawn at its end." if late else ""
    words = f"Every latency sample, measured in turns: a line each; the bar ends at the median.{beyond}"
    return element("figure", *rows, charts.time_axis(reach), element("figcaption", words), class_="latency")
