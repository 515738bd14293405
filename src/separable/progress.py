"""How far the work is. In: whether and whom to tell. Out: a function to call with the number of steps done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Tell = bool | Callable[[int, int], None]
"""True: a bar on stderr, where that is a terminal. A function: called with the steps done and all steps."""


@contextmanager
def told(progress: Tell, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Inside the block, a function that passes on how many of the ``total`` steps are done."""
    if callable(progress):
        yield lambda done: progress(done, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    is_shown = progress and sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not is_shown) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)
