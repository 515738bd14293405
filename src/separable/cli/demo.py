"""``separable demo``. In: nothing. Out: what shrinking a real network gains, and the report."""

from __future__ import annotations

from pathlib import Path

import click

from separable import demo
from separable.cli.arguments import show


@click.command(name="demo")
@click.option("--report", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(report: Path, as_json: bool) -> None:
    """Shrink a ResNet trained on real scanned digits, and show what that gains."""
    show(demo.run(report), as_json)
