"""``separable compile``. In: a model's name. Out: what of it runs natively; its machine code in the cache."""

from __future__ import annotations

import json

import click
import torch

from separable import engine
from separable.cli.arguments import MODEL_HELP, load_model, model_argument, threads_option


@click.command(name="compile", epilog=MODEL_HELP)
@model_argument
@threads_option
def command(reference: str, shape: str | None, as_json: bool) -> None:
    """Compile MODEL for this processor, keep the code, and say what runs natively and what is left to PyTorch."""
    model, example = load_model(reference, shape)
    program = engine.compile(model, example)
    explained = program.explain()
    facts = {"explanation": explained.splitlines(), "threads": torch.get_num_threads()}
    click.echo(json.dumps(facts) if as_json else explained)
