"""``separable bench``. In: a model's name. Out: its time on the engine and in PyTorch, or layer by layer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click
import torch
from torch import Tensor, nn

from separable import engine
from separable.cli.arguments import MODEL_HELP, load_model, model_argument, show, threads_option
from separable.cost.clock import compare
from separable.errors import ModelError
from separable.graph.inference import run

ENGINES = ("eager", "separable")


@click.command(name="bench", epilog=MODEL_HELP)
@model_argument
@click.option("--layers", is_flag=True, help="Time every step of the engine by itself, as a share of the peak.")
@click.option("--engine", "engines", type=click.Choice(ENGINES), multiple=True, help="Only this; both when not given.")
@threads_option
@click.option("--batch", type=click.IntRange(min=1), help="Inputs at once, in place of the example's.")
def command(reference: str, shape: str | None, as_json: bool, **given: Any) -> None:
    """Time MODEL on the engine against PyTorch, in turns; with --layers, every step of the engine."""
    model, example = load_model(reference, shape)
    inputs = _inputs(example, given["batch"])
    if given["layers"]:
        show(engine.layer_times(engine.compile(model, inputs), *inputs), as_json)
        return
    forwards = {name: _forward(name, model, inputs) for name in given["engines"] or ENGINES}
    with torch.inference_mode():
        found = compare(forwards, max_s=5.0)
    click.echo(json.dumps(found.to_json(), indent=2, sort_keys=True) if as_json else str(found))


def _inputs(example: Any, batch: int | None) -> tuple[Tensor, ...]:
    inputs = example if isinstance(example, tuple) else (example,)
    if not all(isinstance(x, Tensor) for x in inputs):
        raise ModelError(
            "bench", given=f"an example that is a {type(example).__name__}", expected="one or more tensors"
        )
    if batch is None:
        return inputs
    return tuple(x[:1].expand(batch, *x.shape[1:]).contiguous() for x in inputs)


def _forward(name: str, model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], Any]:
    if name == "eager":
        return lambda: run(model, inputs)
    program = engine.compile(model, inputs)
    return lambda: program(*inputs)
