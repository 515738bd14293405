"""``separable shrink``. In: a model's name, data and a budget. Out: the separable model, its plan and its report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from torch import nn

from separable import pipeline, plan, tune
from separable.cli.arguments import MODEL_HELP, load_data, load_model, model_argument, resolve, show, threads_option
from separable.errors import FileError
from separable.files import checked_writable
from separable.spec import Budget


@click.command(name="shrink", epilog=MODEL_HELP)
@model_argument
@click.option("--latency", type=float, help="Share of the original's measured time, for example 0.5.")
@click.option("--macs", type=float, help="Share of the original's MACs, or a number of them.")
@click.option("--parameters", type=float, help="Share of the original's parameters, or a number of them.")
@click.option("--error", type=float, help="Largest relative squared output error, for example 0.05.")
@click.option("--data", help="Inputs: .npy, .npz, .safetensors, a folder of images, or package.module:callable.")
@click.option("--limit", type=click.IntRange(min=1), default=512, show_default=True, help="Use at most so many inputs.")
@click.option("--metric", help="package.module:callable that gives a number for a model; reported before and after.")
@click.option("--no-distill", is_flag=True, help="Fit to the data, but do not train.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of distillation.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Distillation is saved here and resumed from here.")
@click.option("--plan", "plan_path", type=click.Path(path_type=Path), help="Apply this plan instead of making one.")
@click.option("--save-plan", type=click.Path(path_type=Path), help="Write the plan here, as JSON.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the finished model here, as .pt2.")
@click.option("--report", type=click.Path(path_type=Path), help="Write the report here, one HTML page.")
@click.option(
    "--engine",
    type=click.Choice(pipeline.ENGINES),
    default="eager",
    show_default=True,
    help="What runs the models that are timed.",
)
@threads_option
@click.option("--seed", type=int, default=0, show_default=True)
def command(reference: str, shape: str | None, as_json: bool, **given: Any) -> None:
    """Make MODEL separable under a budget, recover its output on --data, and time it against the original."""
    for path in (given["out"], given["report"], given["save_plan"], given["checkpoint"]):
        if path is not None:
            checked_writable(path)
    model, example = load_model(reference, shape)
    data = load_data(given["data"], example, limit=given["limit"]) if given["data"] is not None else None
    with tune.process_group():
        shrunk = pipeline.shrink(
            model,
            example,
            data,
            _budget(given),
            engine=given["engine"],
            metrics=_metrics(given["metric"]),
            options=_options(given),
        )
        is_first = tune.is_first()
    if is_first:
        _hand_over(shrunk, given)
        show(shrunk, as_json)


def _hand_over(shrunk: pipeline.Shrunk, given: dict[str, Any]) -> None:
    if given["save_plan"]:
        shrunk.plan.save(given["save_plan"])
    if given["out"]:
        shrunk.save(given["out"])
    if given["report"]:
        shrunk.write_report(given["report"])


def _budget(given: dict[str, Any]) -> Budget | plan.Plan:
    limits = {name: given[name] for name in ("latency", "macs", "parameters", "error") if given[name] is not None}
    if given["plan_path"] is None:
        return Budget(**limits)
    if limits:
        raise FileError("--plan", given=f"also --{next(iter(limits))}", expected="a plan or a budget, not both")
    return plan.Plan.load(given["plan_path"])


def _metrics(reference: str | None) -> dict[str, Callable[[nn.Module], float]]:
    return {reference.partition(":")[2]: resolve(reference, "--metric")} if reference is not None else {}


def _options(given: dict[str, Any]) -> pipeline.ShrinkOptions:
    steps = {"steps": given["steps"]} if given["steps"] else {}
    distill = None if given["no_distill"] else replace(pipeline.GENTLE, seed=given["seed"], **steps)
    return pipeline.ShrinkOptions(samples=given["limit"], distill=distill, checkpoint=given["checkpoint"])
