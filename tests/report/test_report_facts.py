"""Facts as values. In: made-up facts, damaged JSON, numbers that are none. Out: the same facts back, or an error."""

import json
from dataclasses import replace

import pytest
from report_samples import HOSTILE, bare_facts, some_facts

from separable.errors import DataError
from separable.report import Distillation, Facts, Latency, Layer, Metric, Network, Option
from separable.report.charts import curve, error_scale, speedup_scale, strip, strip_reach, time_axis
from separable.report.facts import Speedups
from separable.report.markup import element
from separable.spec import Budget


@pytest.mark.parametrize("facts", [some_facts(3, names=(HOSTILE, "слой")), bare_facts()], ids=["full", "bare"])
def test_facts_survive_json(facts: Facts) -> None:
    assert Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ({"machine": None}, "Facts.machine"),
        ({"batch": "one"}, "Facts.batch"),
        ({"batch": True}, "Facts.batch"),
        ({"colour": "red"}, "colour"),
        ({"layers": [{"name": "conv"}]}, r"Facts.layers\[0\]"),
        ({"verdict": "quicker"}, "Facts.verdict"),
        ({"versions": {"torch": 2}}, "Facts.versions.torch"),
    ],
)
def test_damaged_json_is_refused_and_the_place_named(damage: dict[str, object], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        Facts.from_json({**some_facts(1).to_json(), **damage})


def test_a_missing_field_is_refused_by_name() -> None:
    value = some_facts(1).to_json()
    del value["engine"]
    with pytest.raises(DataError, match="engine missing"):
        Facts.from_json(value)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(number: float) -> None:
    with pytest.raises(DataError, match=r"Metric\.after"):
        Metric(name="accuracy", before=0.9, after=number)
    with pytest.raises(DataError, match=r"Distillation\.losses"):
        Distillation(steps=(1, 2), losses=(0.5, number))


def test_a_loss_for_each_step_is_demanded() -> None:
    with pytest.raises(DataError, match="one a step"):
        Distillation(steps=(1, 2), losses=(0.5,))


def test_a_speed_up_is_before_over_after_and_unknown_where_either_is_unknown_or_zero() -> None:
    before = Option(family="keep", macs=600, parameters=9, predicted_s=0.0, measured_s=3.0)
    after = Option(family="spatial", rank=(2,), macs=200, parameters=3, predicted_s=1.0, measured_s=2.0)
    layer = Layer(name="conv", spec="", before=before, after=after)
    assert layer.speedups == Speedups(counted=3.0, predicted=None, measured=1.5)


def test_the_measured_speed_up_of_the_network_is_the_quotient_of_the_medians() -> None:
    def network(median_s: float) -> Network:
        latency = Latency(median_s=median_s, spread_s=0.1, samples_s=(median_s,))
        return Network(macs=10, parameters=1, weight_bytes=4, measured=latency)

    facts = replace(bare_facts(), before=network(6.0), after=network(4.0), verdict="faster")
    assert facts.speedups.measured == 1.5
    assert "measured 1.50× (faster)" in str(facts)


def test_a_budget_comes_back_as_a_budget() -> None:
    facts = replace(bare_facts(), budget=Budget(latency=0.5, error=0.01))
    assert Facts.from_json(facts.to_json()).budget == facts.budget


def test_a_doubling_takes_the_same_room_everywhere_on_the_speed_up_axis() -> None:
    scale = speedup_scale([Speedups(counted=8.0, predicted=None, measured=0.5)])
    assert scale.ticks == (0.5, 1.0, 2.0, 4.0, 8.0)
    assert [scale.at(tick) for tick in scale.ticks] == [4.0, 27.0, 50.0, 73.0, 96.0]  # 4 % margins, 23 % a doubling


@pytest.mark.parametrize("speedups", [(), (1.0,), (1.3,), (2.5,), (0.01, 300.0), (1e-9, 1e9)])
def test_every_speed_up_axis_shows_1_and_few_marks(speedups: tuple[float, ...]) -> None:
    scale = speedup_scale([Speedups(counted=s, predicted=None, measured=None) for s in speedups])
    assert 1 in scale.ticks
    assert 2 <= len(scale.ticks) <= 9
    assert all(0 <= scale.at(value) <= 100 for value in (*speedups, 1))


@pytest.mark.parametrize("errors", [(), (0.0,), (0.1,), (1e-30, 1.0), (0.02, 0.3)])
def test_an_error_axis_holds_every_error_and_an_exact_layer_is_at_its_left_edge(errors: tuple[float, ...]) -> None:
    scale = error_scale(errors)
    assert 2 <= len(scale.ticks) <= 9
    assert scale.at(0.0) == 4.0
    assert all(4 <= scale.at(error) <= 96 for error in errors)


def test_a_late_sample_is_drawn_at_the_end_of_the_strip_and_does_not_squeeze_the_others() -> None:
    reach = strip_reach([4.0, 2.0])
    assert reach == 5.0
    drawn = strip([4.0, 400.0], median=4.0, reach=reach)
    assert 'x1="80.0%"' in drawn
    assert 'x1="100.0%"' in drawn


@pytest.mark.parametrize("seconds", [0.0, 1e-7, 0.00999, 0.01, 3.0, 86400.0])
def test_a_time_axis_has_a_handful_of_round_marks(seconds: float) -> None:
    assert 3 <= time_axis(strip_reach([seconds])).count("<span") <= 7


@pytest.mark.parametrize("losses", [(0.5,), (0.5, 0.5), (0.0, 1.0), (3.0, 0.1, 0.2)])
def test_a_loss_curve_stays_in_its_frame(losses: tuple[float, ...]) -> None:
    points = curve(losses).split('points="')[1].split('"')[0].split()
    assert len(points) == len(losses)
    assert all(0 <= float(x) <= 1000 and 0 <= float(y) <= 100 for x, y in (point.split(",") for point in points))


def test_markup_escapes_text_attributes_and_nothing_twice() -> None:
    inner = element("b", '<i> & "q"', title='" onload="x')
    assert element("p", inner) == ('<p><b title="&quot; onload=&quot;x">&lt;i&gt; &amp; &quot;q&quot;</b></p>')
