"""``separable trace``. In: a model's name. Out: its convolutions, those that can be rewritten and those that cannot."""

from __future__ import annotations

import click

from separable import graph
from separable.cli.arguments import MODEL_HELP, load_model, model_argument, show


@click.command(name="trace", epilog=MODEL_HELP)
@model_argument
def command(reference: str, shape: str | None, as_json: bool) -> None:
    """List MODEL's convolutions: those that can be rewritten, and those that cannot with the reason."""
    model, example = load_model(reference, shape)
    show(graph.trace(model, example), as_json)
