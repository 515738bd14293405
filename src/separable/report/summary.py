"""A report's headline as text. In: facts. Out: a table of before and after, theory beside practice."""

from __future__ import annotations

from separable.cost.table import draw_table
from separable.report.facts import Elsewhere, Facts, Latency, Metric
from separable.report.numbers import amount, duration, plain, ratio, several, share


def summary(facts: Facts) -> str:
    """The finished model against the original, every number named as counted, predicted or measured."""
    before, after, gain = facts.before, facts.after, facts.speedups
    latency = f"latency, measured ({facts.engine})" if facts.elsewhere else "latency, measured"
    rows = [
        ["MACs, counted", amount(before.macs), amount(after.macs), f"{ratio(gain.counted)} fewer"],
        ["parameters, counted", *_counts(before.parameters, after.parameters)],
        ["latency, predicted", duration(before.predicted_s), duration(after.predicted_s), ratio(gain.predicted)],
        [latency, _latency(before.measured), _latency(after.measured), _verdict(facts)],
        *(_elsewhere(other) for other in facts.elsewhere),
        *(_metric(metric) for metric in facts.metrics),
    ]
    title = (
        f"{facts.model} on {facts.input}, {facts.engine}, {several(facts.threads, 'thread')}, budget: {facts.budget}"
    )
    changed = sum(not layer.is_kept for layer in facts.layers)
    lines = [
        draw_table(["", ">before", ">after", ">"], rows, title=title),
        f"Theory beside practice: {ratio(gain.counted)} fewer MACs, {ratio(gain.measured)} the speed.",
        f"Rewritten: {changed} of {len(facts.layers)} convolutions. Output error {share(facts.output_error)}"
        + (f", the same class first for {share(facts.same_top1)}." if facts.same_top1 is not None else "."),
        *facts.notes,
        *(f"Warning: {warning}" for warning in facts.warnings),
    ]
    return "\n".join(lines)


def _counts(before: int, after: int) -> list[str]:
    return [amount(before), amount(after), f"{ratio(before / after if after else None)} fewer"]


def _latency(latency: Latency | None) -> str:
    return duration(latency.median_s if latency else None)


def _verdict(facts: Facts) -> str:
    return f"{ratio(facts.speedups.measured)} ({facts.verdict})" if facts.verdict else ratio(facts.speedups.measured)


def _elsewhere(other: Elsewhere) -> list[str]:
    before, after = _latency(other.before), _latency(other.after)
    return [f"latency, measured ({other.engine})", before, after, f"{ratio(other.speedup)} ({other.verdict})"]


def _metric(metric: Metric) -> list[str]:
    show = share if metric.is_share else plain
    points = metric.after - metric.before
    change = f"{points * 100:+.1f} points" if metric.is_share else f"{points:+.3g}"
    return [f"{metric.name}, measured", show(metric.before), show(metric.after), change]
