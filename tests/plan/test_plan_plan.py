"""What separable.plan.Plan promises: it prints, saves and loads without losing a bit, and refuses what is no plan."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn, zeros

from separable.cost.machine import Machine
from separable.errors import FileError, PlanError
from separable.graph import trace
from separable.plan import Plan, choose_plan, price
from separable.spec import Budget

MACHINE = Machine(name="m", cores=1, threads=1, instruction_sets=(), fma_per_s=3e9, bytes_per_s=7e9)


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, (3, 1)), nn.Conv2d(16, 2, 1))


@pytest.fixture(scope="module")
def plan() -> Plan:
    model, x = net(), zeros(1, 3, 9, 9)
    prices = price(model, trace(model, x), example=x, timer=lambda m, _: 1e-5 * len(list(m.modules())), machine=MACHINE)
    return choose_plan(prices, Budget(macs=0.6, parameters=0.9))


def test_a_plan_comes_back_from_json_as_it_was_byte_by_byte(plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "a.json")
    again = Plan.load(tmp_path / "a.json")
    assert again == plan
    again.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert Plan.from_json(plan.to_json()) == plan


def test_a_plan_prints_what_each_layer_becomes_why_and_which_numbers_are_which(plan: Plan) -> None:
    text = str(plan)
    for choice in plan.choices:
        assert choice.candidate.label in text
        assert choice.why in text
    for word in ("counted", "predicted", "measured", "weights alone", "macs ≤ 60 % of the original"):
        assert word in text
    assert f"{plan.before.macs:,} → {plan.after.macs:,}" in text


def test_totals_add_up(plan: Plan) -> None:
    assert plan.after.macs == plan.rest.macs + sum(choice.price.macs for choice in plan.choices)
    assert plan.before.error == 0.0
    assert plan.after.error == pytest.approx(sum(choice.price.error for choice in plan.choices))
    assert plan.after.macs <= 0.6 * plan.before.macs


def test_the_fingerprint_is_that_of_names_and_shapes(plan: Plan) -> None:
    model = net()
    same = price(model, trace(model, zeros(2, 3, 9, 9)), machine=MACHINE)
    other = price(model, trace(model, zeros(1, 3, 8, 8)), machine=MACHINE)
    assert same.fingerprint == plan.fingerprint
    assert other.fingerprint != plan.fingerprint


def changed(plan: Plan, **fields: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(plan.to_json()))
    return {**value, **fields}


def test_what_is_no_plan_is_refused(plan: Plan, tmp_path: Path) -> None:
    for value in (
        None,
        [],
        {},
        {"format": "another"},
        changed(plan, choices=[{}]),
        changed(plan, budget={"macs": 2.5}),
    ):
        with pytest.raises(PlanError):
            Plan.from_json(value)
    moved = changed(plan)
    moved["choices"][0]["name"] = "elsewhere"
    with pytest.raises(PlanError, match="edited"):
        Plan.from_json(moved)
    impossible = changed(plan)
    impossible["choices"][0]["price"]["candidate"] = ["spatial", 10_000]
    with pytest.raises(PlanError, match="10000"):
        Plan.from_json(impossible)
    unknown = changed(plan)
    unknown["choices"][0]["price"]["candidate"] = ["magic", 1]
    with pytest.raises(PlanError, match="magic"):
        Plan.from_json(unknown)
    (tmp_path / "half.json").write_text('{"format": ')
    with pytest.raises(PlanError, match="no JSON"):
        Plan.load(tmp_path / "half.json")


def test_files_that_cannot_be_read_or_written_are_named(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"missing\.json"):
        Plan.load(tmp_path / "missing.json")
    with pytest.raises(FileError, match="folder"):
        plan.save(tmp_path / "nowhere" / "plan.json")
