"""``separable count``. In: a model's name. Out: what it costs, layer by layer."""

from __future__ import annotations

import click

from separable import cost
from separable.cli.arguments import MODEL_HELP, load_model, model_argument, show


@click.command(name="count", epilog=MODEL_HELP)
@model_argument
def command(reference: str, shape: str | None, as_json: bool) -> None:
    """Count MODEL's parameters, multiply-accumulates and bytes, layer by layer."""
    model, example = load_model(reference, shape)
    show(cost.count(model, example), as_json)
