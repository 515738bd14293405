"""A picture filtered as it is read. In: a picture, a recipe, a place for the result. Out: the place, filled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from separable.errors import DataError
from separable.filters.apply import apply
from separable.filters.borders import Border
from separable.filters.files import Picture
from separable.filters.fourier import apply_fft
from separable.filters.pixels import checked_type, rounded
from separable.filters.prepared import Options, prepare
from separable.filters.terms import Terms
from separable.filters.tiles import apply_tiled, inner_of, read_with_halo, release, tile_for, tiles_of

# Weights that add up to less than this share of their sizes measure differences and take no mean; a negative weight
# below this share of the largest is rounding.
SMALL = 1e-6


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One kernel; or with ``is_magnitude`` the derivatives along all axes, of which the root mean square is taken.

    With ``is_fft`` by Fourier transforms, in which tiles differ from the whole by rounding.
    """

    kernels: tuple[Terms, ...]
    is_magnitude: bool = False
    is_fft: bool = False
    border: Border = field(default_factory=Border)
    flip: bool = False

    @property
    def is_signed(self) -> bool:
        """Whether values below an image's lowest and above its highest may come out."""
        dense = self.kernels[0].dense().real
        return not self.is_magnitude and bool(dense.min() < -SMALL * np.abs(dense).max())

    def run(self, pixels: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
        """The filtered pixels, in float32 or float64, or complex of the same width."""
        work: type[np.inexact] = np.float64 if pixels.dtype == np.float64 else np.float32
        if self.kernels[0].dtype.kind == "c":
            work = np.complex128 if pixels.dtype == np.float64 else np.complex64
        correlate = apply_fft if self.is_fft else apply
        results = [
            np.asarray(correlate(pixels, kernel, self.border, axes=axes, flip=self.flip, dtype=work))
            for kernel in self.kernels
        ]
        if not self.is_magnitude:
            return results[0]
        return np.asarray(np.sqrt(sum(np.square(result) for result in results) / results[0].dtype.type(len(results))))


def filter_picture(
    picture: Picture, target: Any, recipe: Recipe, progress: Callable[[int, int], None] | None = None
) -> None:
    """Fills ``target``, of the picture's shape, with the filtered picture; the target's type decides the rounding.

    The kernels run over the last axes that are not channels. With transparency a kernel that takes a mean weighs each
    colour by how opaque it is, so that what cannot be seen does not bleed in; other kernels leave the transparency
    alone. ``progress`` is called with how many tiles are done, and of how many.
    """
    dims = len(recipe.kernels[0].shape)
    checked_type(np.dtype(picture.pixels.dtype))
    if dims > len(picture.axes):
        given = f"a kernel of {dims} axes for pixels of shape {tuple(picture.pixels.shape)}"
        raise DataError("filter", given=given, expected=f"at most {len(picture.axes)} axes")
    axes = picture.axes[-dims:]
    if not (picture.has_alpha or recipe.is_magnitude or recipe.is_fft):
        kernel, options = recipe.kernels[0], Options(progress=progress)
        apply_tiled(picture.pixels, target, kernel, recipe.border, axes=axes, flip=recipe.flip, options=options)
        return
    _map_tiles(picture, target, recipe, axes, progress)


def _map_tiles(
    picture: Picture,
    target: Any,
    recipe: Recipe,
    axes: tuple[int, ...],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Filters every tile with its halo and keeps the inner part, which does not depend on where the tile ends."""
    source, shape = picture.pixels, tuple(picture.pixels.shape)
    if not math.prod(shape):
        return
    reach: dict[int, tuple[int, int]] = {}
    for kernel in recipe.kernels:
        spans = prepare(np.dtype(np.float32), len(shape), kernel, recipe.border, axes, flip=recipe.flip).reach
        for axis, (before, after) in spans.items():
            known = reach.get(axis, (0, 0))
            reach[axis] = max(before, known[0]), max(after, known[1])
    sizes = tile_for(source, np.dtype(np.float64), reach)
    if picture.channels is not None:
        sizes[picture.channels] = shape[picture.channels]
    every = list(tiles_of(shape, sizes))
    for number, part in enumerate(every):
        pixels, halo = read_with_halo(source, part, reach, recipe.border)
        values = _with_alpha(pixels, recipe, axes) if picture.has_alpha else recipe.run(pixels, axes)
        target[part] = rounded(values[inner_of(part, halo)], np.dtype(target.dtype))
        release(source, target)
        if progress is not None:
            progress(number + 1, len(every))


def _with_alpha(pixels: NDArray[Any], recipe: Recipe, axes: tuple[int, ...]) -> NDArray[Any]:
    """Colours and, last, how opaque they are: (…, c)."""
    colours, alpha = pixels[..., :-1], pixels[..., -1:]
    dense = recipe.kernels[0].dense()
    total = dense.sum()
    if recipe.is_magnitude or dense.dtype.kind == "c" or abs(total) <= SMALL * np.abs(dense).sum():
        return np.concatenate([recipe.run(colours, axes), alpha], axis=-1)
    work = np.float64 if pixels.dtype == np.float64 else np.float32
    opaque = work(np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1)
    weight = alpha / opaque
    sums, weights = recipe.run(colours * weight, axes), recipe.run(weight, axes) / work(total)
    mean = np.divide(sums, weights, out=np.zeros_like(sums), where=weights > SMALL)
    return np.concatenate([mean, weights * opaque], axis=-1)
