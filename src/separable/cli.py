"""The command line. In: words. Out: tables or JSON on stdout, errors on stderr with exit code 2."""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import torch
from torch import Tensor, nn

from separable import cost, demo, graph, models, pipeline, plan, tune
from separable.errors import FileError, ModelError, SeparableError
from separable.files import checked_writable
from separable.spec import Budget

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
WRONG_USE = 2

MODEL_HELP = """MODEL is a name (separable count --list), package.module:callable, or a .pt2 file saved by
torch.export.save."""


class Commands(click.Group):
    """A group that offers the nearest names when a sub-command does not exist."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"no command {name!r}; there are {', '.join(self.list_commands(ctx))}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="separable")
def commands() -> None:
    """Makes convolutional networks separable: knows what that saves, and makes the saving real."""


def model_argument(command: Callable[..., None]) -> Callable[..., None]:
    """MODEL, --input and --json, which every command that reads a model takes."""
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)
    command = click.option("--input", "shape", metavar="NxCxHxW", help="Shape of the example input.")(command)
    return click.argument("reference", metavar="MODEL")(command)


@commands.command(name="count", epilog=MODEL_HELP)
@model_argument
def count_command(reference: str, shape: str | None, as_json: bool) -> None:
    """Count MODEL's parameters, multiply-accumulates and bytes, layer by layer."""
    model, example = load_model(reference, shape)
    show(cost.count(model, example), as_json)


@commands.command(name="trace", epilog=MODEL_HELP)
@model_argument
def trace_command(reference: str, shape: str | None, as_json: bool) -> None:
    """List MODEL's convolutions: those that can be rewritten, and those that cannot with the reason."""
    model, example = load_model(reference, shape)
    show(graph.trace(model, example), as_json)


@commands.command(name="shrink", epilog=MODEL_HELP)
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
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads; all of them when not given.")
@click.option("--seed", type=int, default=0, show_default=True)
def shrink_command(reference: str, shape: str | None, as_json: bool, **given: Any) -> None:
    """Make MODEL separable under a budget, recover its output on --data, and time it against the original."""
    for path in (given["out"], given["report"], given["save_plan"], given["checkpoint"]):
        if path is not None:
            checked_writable(path)
    if given["threads"]:
        torch.set_num_threads(given["threads"])
    model, example = load_model(reference, shape)
    shrunk = pipeline.shrink(
        model,
        example,
        load_data(given["data"], example, given["limit"]),
        _budget(given),
        metrics=_metrics(given["metric"]),
        options=_options(given),
    )
    if given["save_plan"]:
        shrunk.plan.save(given["save_plan"])
    if given["out"]:
        shrunk.save(given["out"])
    if given["report"]:
        shrunk.write_report(given["report"])
    show(shrunk, as_json)


@commands.command(name="demo")
@click.option("--report", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def demo_command(report: Path, as_json: bool) -> None:
    """Shrink a ResNet trained on real scanned digits, and show what that gains."""
    show(demo.run(report), as_json)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point of the program ``separable``; ends the process with its exit code."""
    try:
        commands.main(arguments, prog_name="separable", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("separable: interrupted; no unfinished file was left behind", err=True)
        sys.exit(INTERRUPTED)
    except SeparableError as error:
        click.echo(f"separable: {error}", err=True)
        sys.exit(WRONG_USE)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the output has had enough of it
        sys.exit(0)
    sys.exit(0)


def load_model(reference: str, shape: str | None) -> tuple[nn.Module, Any]:
    """The model that a word names, and an example input for it (``shape`` wins over the model's own)."""
    example: Any
    if reference.endswith(".pt2"):
        model, example = graph.load_exported(reference)
    elif ":" in reference:
        made = resolve(reference, "MODEL")()
        model, example = made if isinstance(made, tuple) else (made, None)
    else:
        model, example = models.build(reference), models.example(reference)
    if not isinstance(model, nn.Module):
        raise ModelError(
            "MODEL", given=f"{reference}, which gives a {type(model).__name__}", expected="a torch.nn.Module"
        )
    if shape is not None:
        example = torch.zeros(_shape(shape))
    if example is None:
        raise ModelError("--input", given="no shape", expected="one such as 1x3x224x224", remedy=INPUT_REMEDY)
    return model.eval(), example


INPUT_REMEDY = "Give --input, or let the callable return (model, example)."


def load_data(reference: str | None, example: Tensor, limit: int) -> Any:
    """The inputs that a word names; None for no word."""
    if reference is None:
        return None
    if ":" in reference and not Path(reference).exists():
        return tune.read_batches(resolve(reference, "--data")(), example, limit=limit)
    return tune.load_data(reference, example, limit=limit)


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


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().replace(",", "x").split("x")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ModelError("--input", given=repr(text), expected="a shape such as 1x3x224x224")
    return tuple(map(int, parts))


def _budget(given: dict[str, Any]) -> Budget | plan.Plan:
    limits = {name: given[name] for name in ("latency", "macs", "parameters", "error") if given[name] is not None}
    if given["plan_path"] is None:
        return Budget(**limits)
    if limits:
        raise FileError("--plan", given=f"also --{next(iter(limits))}", expected="a plan or a budget, not both")
    return plan.Plan.load(given["plan_path"])


def _metrics(reference: str | None) -> dict[str, Callable[[nn.Module], float]]:
    return {reference.partition(":")[2]: resolve(reference, "--metric")} if reference else {}


def _options(given: dict[str, Any]) -> pipeline.ShrinkOptions:
    steps = {"steps": given["steps"]} if given["steps"] else {}
    distill = None if given["no_distill"] else tune.DistillOptions(seed=given["seed"], **steps)
    return pipeline.ShrinkOptions(samples=given["limit"], distill=distill, checkpoint=given["checkpoint"])
