"""``separable explain``. In: one convolution's numbers. Out: what each of its forms costs, or a page with sliders."""

from __future__ import annotations

from pathlib import Path

import click

from separable import cost, report
from separable.cli.arguments import show, threads_option
from separable.files import checked_writable

USUAL = report.Setting()


@click.command(name="explain")
@click.option("--kernel", type=int, default=USUAL.kernel, show_default=True, help="Height and width of the kernel.")
@click.option("--c-in", type=int, default=USUAL.c_in, show_default=True, help="Channels in.")
@click.option("--c-out", type=int, default=USUAL.c_out, show_default=True, help="Channels out.")
@click.option("--map", "size", type=int, default=USUAL.size, show_default=True, help="Height and width of the input.")
@click.option("--stride", type=int, default=USUAL.stride, show_default=True)
@click.option("--rank", type=int, default=USUAL.rank, show_default=True, help="Of spatial, channel and tucker.")
@click.option("--terms", type=int, default=USUAL.terms, show_default=True, help="Of depthwise, filters a channel.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with sliders here, in English and Chinese.")
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(html: Path | None, as_json: bool, **given: int) -> None:
    """Explain one convolution and its separable forms: costs counted, time predicted for this machine."""
    setting = report.Setting(**given)
    if html is not None:
        checked_writable(html)
    machine = cost.this_machine()
    if html is not None:
        report.write_explainer(setting, machine, html)
    show(report.explain(setting, machine), as_json)
