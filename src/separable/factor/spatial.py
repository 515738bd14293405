"""One pass for each axis. In: a weight k_h × k_w (or three axes). Out: k_h × 1, then 1 × k_w, through r channels.

M. Jaderberg, A. Vedaldi, A. Zisserman, "Speeding up convolutional neural networks with low rank expansions", BMVC 2014
(scheme 2). Along two axes it is the truncated singular value decomposition of the weight as (c_in·k_h) × (k_w·c_out),
which no other weights of the same form beat. Along three it is a tensor train (I. Oseledets, SIAM J. Sci. Comput. 33,
2011): its squared error is at most twice the best one's (theorem 2.2 and corollary 2.4).
"""

from __future__ import annotations

import math

from torch import Tensor

from separable.errors import SpecError
from separable.factor.family import Family, Rank, Step, Truncate
from separable.factor.rank import spectrum
from separable.spec import ConvSpec


def _refuses(spec: ConvSpec) -> str | None:
    if len(_split_axes(spec.kernel)) < 2:
        return f"A kernel of {'×'.join(map(str, spec.kernel))} has no second axis to split off."
    return None


def _full(spec: ConvSpec) -> Rank:
    taps = [spec.kernel[axis] for axis in _split_axes(spec.kernel)]
    c_in, c_out = spec.c_in // spec.groups, spec.c_out // spec.groups
    cuts = range(1, len(taps))
    return tuple(min(c_in * math.prod(taps[:cut]), math.prod(taps[cut:]) * c_out) for cut in cuts)


def _steps(spec: ConvSpec, rank: Rank) -> list[Step]:
    """The first pass also takes the axes along which there is one tap: their stride makes the later ones cheaper."""
    axes = _split_axes(spec.kernel)
    for before, behind, axis in zip(rank, rank[1:], axes[1:], strict=False):
        if behind > before * spec.kernel[axis]:
            raise SpecError(
                f"the rank of 'spatial' for {spec}",
                given=rank,
                expected=f"a second entry of at most {before} × {spec.kernel[axis]}: no more can come out",
            )
    single = [axis for axis in range(spec.dims) if axis not in axes]
    channels = [*(spec.groups * r for r in rank), spec.c_out]
    taken = [[*single, axes[0]], *([axis] for axis in axes[1:])]
    return [Step(c, spec.groups, along) for c, along in zip(channels, taken, strict=True)]


def _split(weight: Tensor) -> Truncate:
    groups, c_out, c_in, *kernel = weight.shape
    axes = _split_axes(tuple(kernel))
    taps = [kernel[axis] for axis in axes]
    tail = weight.movedim(1, -1).reshape(groups, c_in * taps[0], -1)
    first = spectrum(tail)

    def truncate(rank: Rank) -> tuple[list[Tensor], float]:
        left, right, lost = first.truncate(rank[0])
        passes = [left.mT]
        for at, r in enumerate(rank[1:], start=1):
            left, right, more = spectrum(right.reshape(groups, rank[at - 1] * taps[at], -1)).truncate(r)
            passes.append(left.mT)
            lost += more
        passes.append(right.reshape(groups, rank[-1] * taps[-1], c_out).mT)
        shapes = [[k if axis == own else 1 for axis, k in enumerate(kernel)] for own in axes]
        weights = [part.reshape(groups * part.shape[1], -1, *shape) for part, shape in zip(passes, shapes, strict=True)]
        return weights, lost

    return truncate


def _split_axes(kernel: tuple[int, ...]) -> list[int]:
    return [axis for axis, k in enumerate(kernel) if k > 1]


SPATIAL = Family(name="spatial", refuses=_refuses, full=_full, steps=_steps, split=_split)
