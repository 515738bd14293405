"""What every command takes and gives. In: words. Out: the model, the data or the callable that they name."""

from __future__ import annotations

import difflib
import functools
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import torch
from torch import Tensor, nn

from separable import graph, models, tune
from separable.errors import ModelError, SeparableError

MODEL_FORMS = "a name (--list shows them), package.module:callable, or a .pt2 file saved by torch.export.save"
MODEL_HELP = f"MODEL is {MODEL_FORMS}."
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


def threads_option(command: Callable[..., None]) -> Callable[..., None]:
    """--threads, which holds for PyTorch and the engine from then on."""
    # More threads than processors only wait for each other, and many more end the process without a word.
    return click.option(
        "--threads",
        type=click.IntRange(1, os.cpu_count()),
        expose_value=False,
        callback=_use_threads,
        help="Processor threads; all of them when not given.",
    )(command)


def _use_threads(_: click.Context, __: click.Parameter, threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


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
        model, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    elif reference in models.NAMES:
        model, example = models.build(reference, **_given(classes=classes)), models.example(reference)
    else:
        raise ModelError("MODEL", given=repr(reference), expected=MODEL_FORMS, remedy=_nearest(reference, models.NAMES))
    if not isinstance(model, nn.Module):
        given = f"{reference}, which gives a {type(model).__name__}"
        raise ModelError("MODEL", given=given, expected="a torch.nn.Module, or (model, example)")
    if shape is not None:
        example = _zeros(shape, example)
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
    """What ``package.module:callable`` names; the working folder is searched first, as ``python -m`` does.

    ``ModelError`` where there is none, and for whatever goes wrong while it is imported or called.
    """
    module_name, _, name = reference.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise ModelError(where, given=repr(reference), expected="package.module:callable")
    module = _imported(module_name, reference, where)
    found = getattr(module, name, None)
    if not callable(found):
        near = _nearest(name, [word for word in dir(module) if callable(getattr(module, word, None))])
        raise ModelError(where, given=reference, expected=f"a callable of {module_name}", remedy=near)

    @functools.wraps(found)
    def called(*given: Any) -> Any:
        try:
            return found(*given)
        except SeparableError:
            raise
        except Exception as error:  # whatever another's code raises
            raise ModelError(where, given=f"{reference}, which raised {_raised(error)}", expected="a result") from error

    return called


def _imported(module_name: str, reference: str, where: str) -> ModuleType:
    sys.path.insert(0, "")
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # whatever another's code raises
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        is_absent = missing is not None and f"{module_name}.".startswith(f"{missing}.")
        remedy = f"No module {missing!r}." if is_absent else f"{module_name} raised {_raised(error)}."
        raise ModelError(where, given=reference, expected="package.module:callable", remedy=remedy) from error
    finally:
        sys.path.remove("")


def _raised(error: Exception) -> str:
    """The error in a line, with the place that it comes from where that is not the call itself."""
    said = f"{type(error).__name__}: {error}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if frame.filename == __file__ or isinstance(error, SyntaxError):  # whose message has the place
        return said
    return f"{said} ({frame.filename}, line {frame.lineno})"


def show(value: Any, as_json: bool) -> None:
    """Print a value as a person or a program reads it."""
    click.echo(json.dumps(value.to_json(), indent=2, sort_keys=True) if as_json else str(value))


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _nearest(word: str, words: Iterable[str]) -> str:
    """A hint at what may have been meant; empty where nothing comes near."""
    near = difflib.get_close_matches(word, words, n=3)
    return f"Did you mean {' or '.join(near)}?" if near else ""


def _zeros(text: str, own: Any) -> Tensor:
    """An example of the shape that a word says, of the model's own dtype where it has one tensor as its example."""
    parts = text.lower().replace(",", "x").split("x")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ModelError("--input", given=repr(text), expected="a shape such as 1x3x224x224")
    try:
        return torch.zeros(tuple(map(int, parts)), dtype=own.dtype if isinstance(own, Tensor) else None)
    except (RuntimeError, TypeError) as error:  # the second for numbers beyond 64 bits
        raise ModelError("--input", given=text, expected="a shape that fits into memory") from error
