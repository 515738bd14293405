"""What ``shrink`` promises: a separable model within its budget, the original untouched, bad input refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from separable import pipeline
from separable.cost import Ledger, count, this_machine
from separable.errors import BudgetError, DataError, FileError, ModelError, PlanError, SeparableError
from separable.graph import compare, load_exported
from separable.nn import FactorizedConv
from separable.pipeline import ShrinkOptions, shrink
from separable.plan import Plan
from separable.report.facts import Facts
from separable.spec import Budget
from separable.tune import DistillOptions

pytestmark = pytest.mark.usefixtures("clock")

HALF_THE_MACS = Budget(macs=0.5)
NO_TRAINING = ShrinkOptions(distill=None, progress=False)
SHORT_TRAINING = ShrinkOptions(distill=DistillOptions(steps=5), progress=False)
SIZE = 12


class Branchy(nn.Module):
    """A forward that branches on what its input holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu() if x.mean() > -100 else x


class Twice(nn.Module):
    """One layer called at two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x))
        return self.conv(nn.functional.avg_pool2d(x, 2)).mean((2, 3))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()


def images(n: int = 40) -> Tensor:
    """Smooth images, so that there is something to gain from data."""
    noise = torch.randn(n, 3, SIZE + 4, SIZE + 4, generator=torch.Generator().manual_seed(1))
    return nn.functional.avg_pool2d(noise, 5, stride=1) * 5


def test_the_macs_are_within_the_budget_and_the_original_is_as_it_was() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    shrunk = shrink(model, images(1), images(), HALF_THE_MACS, options=SHORT_TRAINING)
    counted = count(shrunk.model, images(1)).total
    assert counted.macs <= 0.5 * count(model, images(1)).total.macs
    assert (shrunk.after.macs, shrunk.after.parameters) == (counted.macs, counted.parameters)
    assert (shrunk.plan.after.macs, shrunk.plan.after.parameters) == (counted.macs, counted.parameters)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert any(isinstance(module, FactorizedConv) for module in shrunk.model.modules())


def test_data_leave_less_error_than_the_weights_alone() -> None:
    model, unseen = network(), images(80)[40:]
    errors = {
        name: compare(model, shrink(model, images(1), data, HALF_THE_MACS, options=NO_TRAINING).model, unseen).error
        for name, data in {"with": images(), "without": None}.items()
    }
    assert errors["with"] < errors["without"]


@pytest.mark.real_clock
def test_times_are_measured_in_turns_and_layers_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timings = pipeline.time_in_turns(network(), network(), images(1), max_s=0.1)
    assert set(timings.timings) == {"original", "rewritten"}
    timer = pipeline.eager_timer(Ledger(), this_machine())
    layer = nn.Conv2d(3, 4, 3).requires_grad_(False)
    first = timer(layer, images(1))
    monkeypatch.setattr(pipeline, "measure", lambda *_, **__: pytest.fail("measured again"))
    assert timer(layer, images(1)) == first > 0


def test_without_data_the_report_says_what_that_costs() -> None:
    facts = shrink(network(), images(1), budget=HALF_THE_MACS).facts
    assert any("weights alone were used" in warning for warning in facts.warnings)
    assert facts.inputs == 0


def test_the_same_input_gives_the_same_plan_and_the_same_weights() -> None:
    first, second = (shrink(network(), images(1), images(), HALF_THE_MACS, options=SHORT_TRAINING) for _ in range(2))
    pairs = zip(first.plan.choices, second.plan.choices, strict=True)
    assert all(a.candidate == b.candidate for a, b in pairs)
    weights = second.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in first.model.state_dict().items())


def test_a_plan_can_be_carried_out_later(tmp_path: Path) -> None:
    shrunk = shrink(network(), images(1), images(), HALF_THE_MACS, options=NO_TRAINING)
    shrunk.plan.save(tmp_path / "plan.json")
    again = shrink(network(), images(1), images(), Plan.load(tmp_path / "plan.json"), options=NO_TRAINING)
    assert again.plan == shrunk.plan
    assert compare(shrunk.model, again.model, images()).error < 1e-8
    with pytest.raises(PlanError, match="Make a plan for this model"):
        shrink(nn.Conv2d(3, 8, 3), images(1), None, shrunk.plan)


def test_the_saved_model_answers_as_the_model_does_at_any_batch_size(tmp_path: Path) -> None:
    shrunk = shrink(network(), images(1), images(), HALF_THE_MACS, options=NO_TRAINING)
    shrunk.save(tmp_path / "small.pt2")
    loaded, example = load_exported(tmp_path / "small.pt2")
    assert example.shape == images(1).shape
    assert compare(shrunk.model, loaded, images(7)).error < 1e-10
    assert count(loaded, example).total.macs == shrunk.after.macs


def test_a_model_in_training_mode_stays_so_and_its_statistics_do_not_move() -> None:
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    shrunk = shrink(model, images(1), images(), HALF_THE_MACS, options=SHORT_TRAINING)
    assert model.training
    assert shrunk.model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert any("training mode" in warning for warning in shrunk.facts.warnings)


def test_a_metric_is_measured_before_and_after() -> None:
    calls: list[bool] = []

    def outputs(model: nn.Module) -> float:
        calls.append(model.training)
        return float(model(images(2)).shape[1])

    facts = shrink(network(), images(1), None, HALF_THE_MACS, metrics={"outputs": outputs}).facts
    assert [(metric.name, metric.before, metric.after) for metric in facts.metrics] == [("outputs", 10.0, 10.0)]
    assert calls == [False, False]


def test_the_facts_survive_json_and_the_page_is_written(tmp_path: Path) -> None:
    shrunk = shrink(network(), images(1), images(), HALF_THE_MACS, options=SHORT_TRAINING)
    assert type(shrunk.facts).from_json(json.loads(json.dumps(shrunk.facts.to_json()))) == shrunk.facts
    shrunk.write_report(tmp_path / "report.html")
    assert "</html>" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "counted" in str(shrunk)
    with pytest.raises(FileError):
        shrunk.write_report(tmp_path / "missing" / "report.html")


@pytest.mark.parametrize("model", [Branchy(), Twice()], ids=["branches on data", "calls a layer twice"])
def test_an_unusual_forward_is_shrunk_too(model: nn.Module) -> None:
    shrunk = shrink(model, images(1), images(), HALF_THE_MACS, options=NO_TRAINING)
    assert shrunk.after.macs <= 0.5 * shrunk.before.macs


def test_labels_in_the_data_are_no_obstacle() -> None:
    loader = DataLoader(TensorDataset(images(), torch.zeros(40, dtype=torch.long)), batch_size=8)
    assert shrink(network(), images(1), loader, HALF_THE_MACS, options=NO_TRAINING).facts.inputs == 32


def nothing() -> Iterator[Tensor]:
    yield from ()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (nothing, "no "),
        ([], "no "),
        (torch.zeros(4, 3, SIZE + 1, SIZE), str(SIZE + 1)),
        (torch.zeros(4, 3, SIZE, SIZE, dtype=torch.float64), "float64"),
        (torch.full((4, 3, SIZE, SIZE), torch.nan), "NaN"),
    ],
    ids=["nothing", "an empty list", "another size", "another dtype", "not a number"],
)
def test_wrong_data_are_refused_before_the_work(data: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        shrink(network(), images(1), data, HALF_THE_MACS)


def test_a_model_that_cannot_be_shrunk_is_refused_with_the_reason() -> None:
    with pytest.raises(ModelError, match="without convolutions"):
        shrink(nn.Flatten(), images(1))
    with pytest.raises(ModelError, match="depthwise"):
        shrink(nn.Conv2d(3, 3, 3, groups=3), images(1))
    broken = network()
    nn.init.constant_(broken[3].weight, float("nan"))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"3\.weight"):
        shrink(broken, images(1))


@pytest.mark.parametrize("example", [torch.zeros(1, 4, SIZE, SIZE), torch.zeros(1, 3, SIZE, SIZE).double()])
def test_a_wrong_example_is_refused_with_the_layer_where_it_broke(example: Tensor) -> None:
    with pytest.raises(ModelError, match="'0'"):
        shrink(network(), example)


@pytest.mark.real_clock
def test_candidates_are_priced_and_models_timed_on_the_engine() -> None:
    options = ShrinkOptions(distill=None, progress=False, also="eager")
    shrunk = shrink(network(), images(1), budget=HALF_THE_MACS, engine="separable", options=options)
    assert shrunk.prices is not None
    assert shrunk.prices.is_measured
    assert shrunk.facts.engine == "separable"
    assert [other.engine for other in shrunk.facts.elsewhere] == ["eager"]
    assert "latency, measured (eager)" in str(shrunk)
    assert Facts.from_json(json.loads(json.dumps(shrunk.facts.to_json()))) == shrunk.facts


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(SeparableError, match="eager"):
        shrink(network(), images(1), engine="steam")


def test_a_latency_budget_is_kept_by_the_whole_model_and_not_only_by_the_sum_of_its_layers(clock: Any) -> None:
    clock(hidden=0.5)
    shrunk = shrink(network(), images(1), None, Budget(latency=0.6))
    assert shrunk.after.measured is not None
    assert shrunk.before.measured is not None
    assert shrunk.after.measured.median_s <= 0.6 * shrunk.before.measured.median_s
    assert shrunk.plan.budget == Budget(latency=0.6)
    measured = [(choice.price.measured_s, choice.original.measured_s) for choice in shrunk.plan.choices]
    assert all(after is not None and before is not None and after <= before for after, before in measured)


def test_a_latency_budget_in_seconds_is_kept() -> None:
    whole_s = count(network(), images(1)).total.macs * 1e-9
    shrunk = shrink(network(), images(1), None, Budget(latency_s=whole_s * 0.7))
    assert shrunk.after.measured is not None
    assert shrunk.after.measured.median_s <= whole_s * 0.7


def test_a_latency_out_of_reach_is_an_error_that_names_the_best(clock: Any) -> None:
    clock(hidden=20.0)
    with pytest.raises(BudgetError, match=r"the best .* is|latency"):
        shrink(network(), images(1), None, Budget(latency=0.5))
    clock(hidden=0.0)
    with pytest.raises(BudgetError, match="best"):
        shrink(network(), images(1), None, Budget(latency=0.001))
