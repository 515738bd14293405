"""In: a title, columns and rows of text. Out: a table as plain text, the same wherever it is printed."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Rich's description of a box, line by line; here a rule below the head and between sections.
_RULED = Box("    \n    \n ── \n    \n ── \n ── \n    \n    \n")


def draw_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", totals: Sequence[Sequence[str]] = ()
) -> str:
    """Rows below their columns, ``totals`` below a rule. Columns that start with ``>`` are set to the right.

    >>> print(draw_table(["layer", ">MACs"], [["conv1", "1,200"]], totals=[["total", "1,200"]]))
     layer    MACs
    ───────────────
     conv1   1,200
    ───────────────
     total   1,200
    """
    table = Table(box=_RULED, show_edge=False)
    for column in columns:
        table.add_column(Text(column.lstrip(">")), justify="right" if column.startswith(">") else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    if totals:
        table.add_section()
    for row in totals:
        table.add_row(*map(Text, row))
    console = Console(file=StringIO(), width=10_000, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join([title, *lines] if title else lines)
