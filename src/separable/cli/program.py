"""The program ``separable``. In: words. Out: tables or JSON on stdout, errors on stderr with exit code 2."""

from __future__ import annotations

import difflib
import io
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from separable.cli import bench, compile, count, demo, explain, filter, shrink, trace, train
from separable.errors import SeparableError

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
WRONG_USE = 2
ALLOCATION = "DefaultCPUAllocator"  # what PyTorch's plain RuntimeError names where memory ends


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
def program() -> None:
    """Makes convolutional networks separable: knows what that saves, and makes the saving real."""


for part in (bench, compile, count, trace, explain, train, shrink, filter, demo):
    program.add_command(part.command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point of the program ``separable``; ends the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without × and → shows ? instead
    try:
        program.main(arguments, prog_name="separable", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("separable: interrupted; no unfinished file was left behind", err=True)
        sys.exit(INTERRUPTED)
    except (SeparableError, OSError, MemoryError) as error:
        click.echo(f"separable: {error}", err=True)
        sys.exit(WRONG_USE)
    except RuntimeError as error:
        if ALLOCATION not in str(error):
            raise
        click.echo("separable: not enough memory", err=True)
        sys.exit(WRONG_USE)
    sys.exit(0)
