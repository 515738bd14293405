"""What a filter did, as a picture. In: pixels before and after, the kernel's terms. Out: a PNG, SVG or PDF file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from separable.errors import FileError, MissingExtraError
from separable.files import checked_writable, written_whole
from separable.filters.files import Picture
from separable.filters.terms import Terms

SUFFIXES = (".png", ".svg", ".pdf")
WIDEST = 1000  # pixels of a picture in the figure
MOST_TERMS = 3
TALLEST = 8.0  # inches for the pictures
MOST_BARS = 41
LINES = ("#1b6ca8", "#c8553d", "#4f7a28")


def check_target(path: Path, *, overwrite: bool) -> None:
    """FileError when no figure may be written there. To be asked before the work."""
    if path.suffix.lower() not in SUFFIXES:
        raise FileError(str(path), given=f"the ending {path.suffix!r}", expected=f"one of {', '.join(SUFFIXES)}")
    checked_writable(path)
    if path.exists() and not overwrite:
        raise FileError(str(path), given="a file that exists", expected="a new one", remedy="Give --overwrite.")


def draw(path: str | os.PathLike[str], before: Picture, after: Picture, kernel: Terms) -> None:
    """Writes a figure: the picture before and after, the kernel, and the 1-D kernels of its strongest terms."""
    try:
        from matplotlib import figure
    except ImportError as error:
        raise MissingExtraError("--figure", package="matplotlib", extra="filters") from error
    rows = min(len(kernel.terms), MOST_TERMS)
    pictures = [(title, picture, _shown(picture)) for title, picture in (("before", before), ("after", after))]
    height, width = pictures[0][2].shape[:2]
    tall = min(TALLEST, 0.5 + 5.4 * height / max(width, 1))
    page: Any = figure.Figure(figsize=(11, tall + 1.7 * rows), layout="constrained")
    top, bottom = page.subfigures(2, 1, height_ratios=[tall, 1.7 * rows])
    for axes, (title, picture, pixels) in zip(top.subplots(1, 2), pictures, strict=True):
        low, high = (float(value) for value in (pixels.min(initial=0), pixels.max(initial=0)))
        shape = "×".join(map(str, picture.pixels.shape))
        drawn, gain = _brightness(picture, pixels)
        axes.imshow(drawn, cmap="gray")
        text = f"{title}: {shape} {np.dtype(picture.pixels.dtype)}, {low:.4g} to {high:.4g}"
        axes.set_title(text + f", drawn {gain:.2g}× as bright" * (gain > 1), fontsize=10)
        axes.set_axis_off()
    _draw_kernel(bottom, kernel, rows)
    with written_whole(path) as temporary:
        page.savefig(temporary, dpi=110)


def _draw_kernel(part: Any, kernel: Terms, rows: int) -> None:
    grid = part.add_gridspec(rows, 1 + len(kernel.shape))
    dense = kernel.dense().real
    plane = np.atleast_2d(dense[tuple(length // 2 for length in kernel.shape[:-2])])
    largest = float(np.abs(plane).max()) or 1.0
    picture = part.add_subplot(grid[:, 0])
    picture.imshow(plane, cmap="RdBu_r", vmin=-largest, vmax=largest)
    count = f"{len(kernel.terms)} term{'s' * (len(kernel.terms) > 1)}"
    picture.set_title(f"kernel {'×'.join(map(str, kernel.shape))}, {count}, error {kernel.error:.2g}", fontsize=9)
    picture.set_axis_off()
    for number, term in enumerate(kernel.terms[:rows]):
        for axis, weights in enumerate(term.kernels):
            axes = part.add_subplot(grid[number, 1 + axis])
            _draw_weights(axes, weights, LINES[axis % len(LINES)])
            axes.set_title(f"term {number + 1}, axis {axis}", fontsize=9)


def _draw_weights(axes: Any, weights: NDArray[Any], colour: str) -> None:
    """Bars where they can be told apart; the imaginary part dotted."""
    places = np.arange(len(weights)) - len(weights) // 2
    if weights.dtype.kind != "c" and len(weights) <= MOST_BARS:
        axes.bar(places, weights, color=colour, width=0.7)
    else:
        axes.plot(places, weights.real, color=colour)
        if weights.dtype.kind == "c":
            axes.plot(places, weights.imag, ":", color=colour)
    axes.axhline(0, color="#bbbbbb", linewidth=0.6)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(labelsize=7)


def _shown(picture: Picture) -> NDArray[Any]:
    """A 2-D part of the pixels, (h, w) or (h, w, c), thinned out: channels last, of further axes the middle."""
    pixels = picture.pixels
    size = [len(pixels.shape) + axis for axis in picture.axes[-2:]]
    chosen: list[Any] = [length // 2 for length in pixels.shape]
    for axis in size:
        chosen[axis] = slice(None, None, max(1, -(-pixels.shape[axis] // WIDEST)))
    if picture.channels is not None:
        chosen[picture.channels] = slice(None)
    part = np.asarray(pixels[tuple(chosen)])
    if picture.channels is not None and picture.channels != -1:
        part = np.moveaxis(part, 0, -1)
    part = np.abs(part) if part.dtype.kind == "c" else part
    return part if picture.channels is None or part.shape[-1] in (3, 4) else part[..., 0]


def _brightness(picture: Picture, pixels: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """What matplotlib draws: gray is stretched by it, colours lie within [0, 1]; and by how much dark ones were lit."""
    if pixels.ndim == 2:
        return pixels, 1.0
    dtype, largest = np.dtype(picture.pixels.dtype), float(pixels[..., :3].max(initial=0))
    most = np.iinfo(dtype).max if dtype.kind in "iu" else max(1.0, largest)
    drawn = np.clip(pixels / most, 0, 1)
    gain = most / largest if 0 < 2 * largest < most else 1.0
    drawn[..., :3] *= gain
    return drawn, gain
