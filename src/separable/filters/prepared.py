"""A kernel made ready for images of one type. In: a kernel, a border, axes. Out: a filter that can be run on arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike, NDArray
from torch import Tensor

from separable.errors import SpecError
from separable.filters.arrays import Separable, Span, address, direct, filter_array
from separable.filters.borders import Border
from separable.filters.passes import Kernel, Plan, is_zero, kernel_of
from separable.filters.pixels import Types, choose_types
from separable.filters.split import cheapest
from separable.filters.terms import Terms

Centred = tuple[NDArray[Any], int]
NanPolicy = Literal["propagate", "omit", "raise"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a filter does beside filtering.

    ``tolerance``: the error that splitting a kernel may cause (see ``split``). ``nan``: what is not a number spreads to
    every result whose kernel touches it (``"propagate"``), is left out as if it were masked (``"omit"``), or is a
    DataError (``"raise"``). ``threads``: by default as many as PyTorch uses. ``progress`` is called with how many tiles
    are done, and of how many.
    """

    tolerance: float = 1e-12
    nan: NanPolicy = "propagate"
    threads: int | None = None
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.nan not in ("propagate", "omit", "raise"):
            raise SpecError("Options", given=f"nan={self.nan!r}", expected='"propagate", "omit" or "raise"')
        if self.threads is not None and self.threads < 1:
            raise SpecError("Options", given=f"threads={self.threads}", expected="at least 1")


OPTIONS = Options()


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A filter for images of one type and rank. ``parts`` is one filter, or two for a complex result; empty: zeros."""

    types: Types
    parts: tuple[Separable | None, ...]

    @property
    def reach(self) -> dict[int, tuple[int, int]]:
        """For each axis how many pixels before and behind it a result depends on."""
        found: dict[int, tuple[int, int]] = {}
        for part in filter(None, self.parts):
            for at, axis in enumerate(part.axes):
                before, after = part.reach(at)
                known = found.get(axis, (0, 0))
                found[axis] = max(before, known[0]), max(after, known[1])
        return found

    def into(self, source: NDArray[Any], target: NDArray[Any], halo: Mapping[int, Span] | None = None) -> None:
        """Filters ``source`` into ``target``, whose type decides the rounding; ``halo`` as in ``filter_array``."""
        if len(self.parts) == 1:
            if not halo and self.parts[0] is not None and source.flags.aligned and target.flags.aligned:
                layouts = (source.shape, source.strides, source.dtype), (target.shape, target.strides, target.dtype)
                plan = _direct(self.parts[0], *layouts)
                if plan is not None:
                    plan.run(address(source), address(target))
                    return
            self._part(self.parts[0], source, target, halo)
            return
        for part, into in zip(self.parts, (target.real, target.imag), strict=True):
            result = np.empty(into.shape, self.types.part)
            self._part(part, source, result, halo)
            into[...] = result

    def _part(
        self, part: Separable | None, source: NDArray[Any], target: NDArray[Any], halo: Mapping[int, Span] | None
    ) -> None:
        if part is None:
            target[...] = 0
        else:
            filter_array(source, target, part, halo)


Layout = tuple[tuple[int, ...], tuple[int, ...], np.dtype[Any]]


@functools.lru_cache(maxsize=128)
def _direct(filter_: Separable, source: Layout, target: Layout) -> Plan | None:
    """What ``direct`` finds for arrays laid out so: for a small image the search takes longer than the filter."""
    fakes = [
        np.lib.stride_tricks.as_strided(np.empty(1, dtype), shape, strides)
        for shape, strides, dtype in (source, target)
    ]
    return direct(fakes[0], fakes[1], filter_)


def prepare(
    image: np.dtype[Any],
    ndim: int,
    kernel: Terms | ArrayLike | Tensor,
    border: Border,
    axes: Sequence[int] | None,
    *,
    flip: bool = False,
    dtype: DTypeLike | None = None,
    options: Options = OPTIONS,
) -> Prepared:
    """The filter for images of type ``image`` with ``ndim`` axes. What was prepared lately is kept."""
    terms = as_terms(kernel, options.tolerance)
    where = None if axes is None else tuple(axes)
    threads = options.threads or torch.get_num_threads()
    wanted = None if dtype is None else np.dtype(dtype)
    return _prepared(image, ndim, terms, border, where, flip=flip, dtype=wanted, threads=threads)


@functools.lru_cache(maxsize=256)
def _prepared(
    image: np.dtype[Any],
    ndim: int,
    terms: Terms,
    border: Border,
    axes: tuple[int, ...] | None,
    *,
    flip: bool,
    dtype: np.dtype[Any] | None,
    threads: int,
) -> Prepared:
    axes = checked_axes(axes, len(terms.shape), ndim)
    types = choose_types(image, terms, dtype)
    order = sorted(range(len(axes)), key=axes.__getitem__)
    weights = [tuple(_turned(term.kernels[at], flip) for at in order) for term in terms.terms]
    parts = _real_and_imaginary(weights) if types.result.kind == "c" else [weights]
    make = functools.partial(_separable, types, tuple(sorted(axes)), border, threads)
    return Prepared(types=types, parts=tuple(make(part) for part in parts))


def _separable(
    types: Types, axes: tuple[int, ...], border: Border, threads: int, weights: list[tuple[Centred, ...]]
) -> Separable | None:
    """The terms rounded, without those that are zero; None where none is left."""
    terms = tuple(tuple(kernel_of(*kernel, types.work) for kernel in term) for term in weights)
    terms = tuple(term for term in terms if not any(is_zero(kernel) for kernel in term))
    return _known(types.work, axes, terms, border, threads) if terms else None


@functools.lru_cache(maxsize=256)
def _known(
    work: str, axes: tuple[int, ...], terms: tuple[tuple[Kernel, ...], ...], border: Border, threads: int
) -> Separable:
    """The same filter for the same weights, however they came: what was found for it once is found again."""
    return Separable(work=work, axes=axes, terms=terms, border=border, threads=threads)


def _turned(kernel: NDArray[Any], flip: bool) -> Centred:
    """The weights and which of them stands at the result; reversed for a convolution."""
    centre = len(kernel) // 2
    return (kernel[::-1], len(kernel) - 1 - centre) if flip else (kernel, centre)


def _real_and_imaginary(terms: list[tuple[Centred, ...]]) -> list[list[tuple[Centred, ...]]]:
    """Terms of complex kernels as two sums of terms of real ones: (a + bi)(c + di) = (ac − bd) + (ad + bc)i."""
    parts: list[list[tuple[Centred, ...]]] = [[], []]
    for term in terms:
        whole: list[list[tuple[Centred, ...]]] = [[()], []]
        for weights, centre in term:
            a, b = (np.real(weights), centre), (np.imag(weights), centre)
            minus_b = (-np.imag(weights), centre)
            real, imaginary = whole
            whole = [
                [(*t, a) for t in real] + [(*t, minus_b) for t in imaginary],
                [(*t, b) for t in real] + [(*t, a) for t in imaginary],
            ]
        for part, found in zip(parts, whole, strict=True):
            part += found
    return parts


def checked_axes(axes: Sequence[int] | None, wanted: int, ndim: int) -> tuple[int, ...]:
    """``axes`` counted from 0, by default the last ones; SpecError unless they are ``wanted`` different ones."""
    if axes is None:
        if wanted > ndim:
            raise SpecError("apply", given=f"a kernel of {wanted} axes", expected=f"at most the image's {ndim}")
        return tuple(range(ndim - wanted, ndim))
    found = tuple(axis + ndim if axis < 0 else axis for axis in axes)
    if len(found) != wanted or len(set(found)) != wanted or not all(0 <= axis < ndim for axis in found):
        expected = f"{wanted} different axes of {ndim}, one for each axis of the kernel"
        raise SpecError("apply", given=f"axes={tuple(axes)}", expected=expected)
    return found


def as_terms(kernel: Terms | ArrayLike | Tensor, tolerance: float) -> Terms:
    """A kernel's terms; those of the last kernels are kept, since finding them takes longer than a small image."""
    if isinstance(kernel, Terms):
        return kernel
    array = kernel.detach().cpu().numpy() if isinstance(kernel, Tensor) else np.asarray(kernel)
    if array.dtype.hasobject:
        return cheapest(array, tolerance)  # which says what is wrong with it
    return _kept(array.tobytes(), array.dtype.str, array.shape, tolerance)


@functools.lru_cache(maxsize=64)
def _kept(content: bytes, dtype: str, shape: tuple[int, ...], tolerance: float) -> Terms:
    return cheapest(np.frombuffer(content, dtype).reshape(shape), tolerance)
