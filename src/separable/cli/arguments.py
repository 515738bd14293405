"""What every command takes and gives. In: words. Out: the model, the data or the callable that they name."""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from separable import graph, models, tune
from separable.errors import ModelError

MODEL_HELP = """MODEL is a name (--list shows them), package.module:callable, or a .pt2 file saved by
torch.export.save."""
INPUT_REMEDY = "Give --input, or let the callable return (model, example)."


def model_argument(command: Callable[..., None]) -> Callable[..., None]:
    """MODEL, --input, --json and --list, which every command that reads a model takes."""
    command = click.option(
        "--list",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_list_names,
        help="Name the models that are built in.",
    )(command)
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)
    command = click.option("--input", "shape", metavar="NxCxHxW", help="Shape of the example input.")(command)
    return click.argument("reference", metavar="MODEL")(command)


def _list_names(context: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    if is_wanted:
        click.echo("\n".join(models.NAMES))
        context.exit()


def load_model(reference: str, shape: str | None, classes: int | None = None) -> tuple[nn.Module, Any]:
    """The model that a word names, and an example input for it (``shape`` wins over the model's own).

    A built-in one has so many ``classes`` where they are given.
    """
    example: Any
    if classes is not None and reference not in models.NAMES:
        raise ModelError("--classes", given=f"{classes} for {reference}", expected="it with a built-in model only")
    if reference.endswith(".pt2"):
        model, example = graph.load_exported(reference)
    elif ":" in reference:
        made = resolve(reference, "MODEL")()
        model, example = made if isinstance(made, tuple) else (made, None)
    else:
        model, example = models.build(reference, **_given(classes=classes)), models.example(reference)
    if not isinstance(model, nn.Module):
        raise ModelError(
            "MODEL", given=f"{reference}, which gives a {type(model).__name__}", expected="a torch.nn.Module"
        )
    if shape is not None:
        example = torch.zeros(_shape(shape))
    if example is None:
        raise ModelError("--input", given="no shape", expected="one such as 1x3x224x224", remedy=INPUT_REMEDY)
    return model.eval(), example


def load_data(
    reference: str,
    example: Any,
    *,
    limit: int | None = None,
    batch_size: int | None = None,
    has_classes: bool = False,
) -> tune.Batches:
    """The inputs that a word names, with labels where they have them."""
    if ":" in reference and not Path(reference).exists():
        return tune.read_batches(resolve(reference, "--data")(), example, batch_size=batch_size, limit=limit)
    return tune.load_data(reference, example, batch_size=batch_size, limit=limit, has_classes=has_classes)


def resolve(reference: str, where: str) -> Callable[..., Any]:
    """What ``package.module:callable`` names; the working folder is searched first, as ``python -m`` does."""
    module_name, _, name = reference.partition(":")
    sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        raise ModelError(
            where, given=reference, expected="package.module:callable", remedy=f"No module {error.name!r}."
        ) from error
    finally:
        sys.path.remove("")
    found = getattr(module, name, None)
    if not callable(found):
        near = difflib.get_close_matches(name, dir(module), n=3)
        remedy = f"Nearest names in {module_name}: {', '.join(near)}." if near else ""
        raise ModelError(where, given=reference, expected=f"a callable of {module_name}", remedy=remedy)
    return found  # type: ignore[no-any-return]


def show(value: Any, as_json: bool) -> None:
    """Print a value as a person or a program reads it."""
    click.echo(json.dumps(value.to_json(), indent=2, sort_keys=True) if as_json else str(value))


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().replace(",", "x").split("x")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ModelError("--input", given=repr(text), expected="a shape such as 1x3x224x224")
    return tuple(map(int, parts))
