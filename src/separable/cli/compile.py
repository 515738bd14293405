"""``separable compile``. In: a model's name. Out: what of it runs natively; its code in the cache, its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch

from separable import engine
from separable.cli.arguments import MODEL_HELP, load_model, model_argument
from separable.files import checked_writable


@click.command(name="compile", epilog=MODEL_HELP)
@model_argument
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads; all of them when not given.")
@click.option("--out", type=click.Path(path_type=Path), help="Save the program, to be run without PyTorch.")
def command(reference: str, shape: str | None, as_json: bool, out: Path | None, **given: Any) -> None:
    """Compile MODEL for this processor, keep the code, and say what runs natively and what is left to PyTorch."""
    if out is not None:
        checked_writable(out)
    model, example = load_model(reference, shape)
    threads = given["threads"] or torch.get_num_threads()
    program = engine.compile(model, example, threads=threads)
    if out is not None:
        program.save(out)
    explained = program.explain()
    click.echo(json.dumps({"explanation": explained.splitlines(), "threads": threads}) if as_json else explained)
