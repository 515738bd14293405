"""``separable compile``. In: a model's name. Out: what of it runs natively; its code in the cache, its file."""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from separable import engine
from separable.cli.arguments import MODEL_HELP, load_model, model_argument, threads_option
from separable.files import checked_writable


@click.command(name="compile", epilog=MODEL_HELP)
@model_argument
@threads_option
@click.option("--out", type=click.Path(path_type=Path), help="Save the program, to be run without PyTorch.")
def command(reference: str, shape: str | None, as_json: bool, out: Path | None) -> None:
    """Compile MODEL for this processor, keep the code, and say what runs natively and what is left to PyTorch."""
    if out is not None:
        checked_writable(out)
    model, example = load_model(reference, shape)
    program = engine.compile(model, example)
    if out is not None:
        program.save(out)
    explained = program.explain()
    facts = {"explanation": explained.splitlines(), "threads": torch.get_num_threads()}
    click.echo(json.dumps(facts) if as_json else explained)
