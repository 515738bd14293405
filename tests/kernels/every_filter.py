"""One filter of every kind. In: a level. Out: plans, each with an image and room for the result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from separable.filters.borders import Border
from separable.filters.passes import Job, Kernel, Place, Plan, Reach, kernel_of
from separable.kernels.isa import Isa

Pixels = NDArray[Any]
KINDS = {  # types of the pixels, and the lengths of each term's two kernels
    "short": ("uint8", "uint8", [(3, 5)]),
    "long": ("uint8", "float32", [(21, 19)]),
    "past the caches": ("float32", "float32", [(3, 3)]),
    "in doubles": ("float32", "float64", [(5, 21)]),
    "sparse": ("int16", "float16", [(-43, -43)]),
    "several": ("uint16", "int16", [(3, 3), (20, 22), (1, 5)]),
    "halves": ("float16", "uint16", [(2, 4)]),
}


def every_filter(isa: Isa) -> Iterator[tuple[Plan, Pixels, Pixels]]:
    """A plan, its image, and room for the result; negative lengths are those of kernels with mostly zeros."""
    for name, (source, target, lengths) in KINDS.items():
        work = "double" if target == "float64" else "float"
        terms = [(_kernel(a, work), _kernel(b, work)) for a, b in lengths]
        image = (np.random.default_rng(1).random((37, 48, 2)) * 99).astype(source)
        result = np.zeros(image.shape, target)
        yield Plan(job_for(image, result, terms, work, streams=name == "past the caches"), isa), image, result


def _kernel(length: int, work: str) -> Kernel:
    return kernel_of(weights(abs(length), 3 if length < 0 else 1) + 0.1 * (length > 0), abs(length) // 2, work)


def weights(length: int, every: int = 1) -> np.ndarray:
    found = np.random.default_rng(length).standard_normal(length) / length
    return found * (np.arange(length) % every == 0)


def job_for(
    source: Pixels, target: Pixels, pairs: list[tuple[Kernel, Kernel]], work: str, *, streams: bool = False
) -> Job:
    """A job for two threads, of a whole image (height, width, channels)."""
    height, width, channels = target.shape
    places = [
        Place(dtype=a.dtype.name, planes=(), plane_strides=(), row=a.strides[0], pixel=a.strides[1])
        for a in (source, target)
    ]
    return Job(
        work=work,
        source=places[0],
        target=places[1],
        terms=tuple(pairs),
        rows=Reach(size=height, first=0, last=height),
        columns=Reach(size=width, first=0, last=width),
        channels=channels,
        border=Border("nearest"),
        threads=2,
        streams=streams,
    )
