"""How to filter fastest. In: a kernel, an image's size and type. Out: a verdict, predicted from this machine's own
times.

Three ways lead to the same pixels: the kernel in one piece, row by row (``direct``); its separable terms
(``separable``); Fourier transforms (``fft``). The rates of each are measured once on this machine and kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike, NDArray
from torch import Tensor

from separable.cost import Ledger, measure, this_machine, this_software
from separable.errors import SpecError
from separable.factor.kernel2d import TOLERANCE
from separable.filters.apply import apply
from separable.filters.borders import Border
from separable.filters.fourier import apply_fft
from separable.filters.prepared import as_terms, checked_axes
from separable.filters.smooth import box
from separable.filters.split import row_by_row, split
from separable.filters.terms import Terms

Method = Literal["direct", "separable", "fft"]
WAYS: dict[Method, str] = {"direct": "the kernel in one piece", "separable": "the separable sum", "fft": "Fourier"}
# 4 MiB of float32: beyond the second-level cache, as images are that one waits for.
PROBE_SHAPE = (1024, 1024)
SHORT, LONG, MANY = 3, 65, 4


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Seconds: of a pixel, of a term and a multiply-accumulate for it, and of n pixels transformed by n·log₂ n."""

    pixel_s: float
    term_s: float
    mac_s: float
    fft_s: float

    def of_terms(self, terms: Terms, pixels: int) -> float:
        """Predicted seconds of ``apply``."""
        return pixels * (self.pixel_s + len(terms.terms) * self.term_s + terms.separable_macs * self.mac_s)

    def of_fft(self, kernel: Sequence[int], shape: Sequence[int]) -> float:
        """Predicted seconds of ``apply_fft``; the kernel runs over the last axes."""
        longer = [0] * (len(shape) - len(kernel)) + [length - 1 for length in kernel]
        padded = math.prod(size + more for size, more in zip(shape, longer, strict=True))
        return self.fft_s * padded * math.log2(max(padded, 2))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Which way is the fastest for images of one shape and type, with the predicted seconds of each."""

    method: Method
    predicted_s: Mapping[Method, float]
    separable: Terms
    direct: Terms
    shape: tuple[int, ...]
    dtype: str

    @property
    def terms(self) -> Terms | None:
        """What to hand to ``apply``; None where Fourier transforms are faster."""
        return {"direct": self.direct, "separable": self.separable}.get(self.method)

    def __str__(self) -> str:
        macs = {"direct": self.direct.separable_macs, "separable": self.separable.separable_macs}
        size = f"{'×'.join(map(str, self.shape))} {self.dtype}"
        lines = [f"{WAYS[self.method]} is the fastest for {size} (predicted):"]
        for method, seconds in sorted(self.predicted_s.items(), key=lambda pair: pair[1]):
            work = f", {macs[method]} multiply-accumulates a pixel" if method in macs else ""
            lines.append(f"  {method:9} {seconds * 1e3:8.3g} ms{work}")
        return "\n".join(lines)


def choose(
    kernel: Terms | ArrayLike | Tensor,
    shape: Sequence[int],
    dtype: DTypeLike = np.float32,
    tolerance: float = TOLERANCE,
    *,
    rates: Rates | None = None,
) -> Verdict:
    """The fastest way to filter images of ``shape``, whose last axes are the kernel's, by ``rates`` or this machine's.

    >>> slow_terms = Rates(pixel_s=1e-9, term_s=1e-9, mac_s=1e-9, fft_s=1e-9)
    >>> choose([[1, 2, 1], [2, 4, 2], [1, 2, 1]], (512, 512), rates=slow_terms).method
    'separable'
    >>> choose(np.random.default_rng(0).random((31, 31)), (512, 512), rates=slow_terms).method
    'fft'
    """
    separable = kernel if isinstance(kernel, Terms) else split(kernel, tolerance)
    direct = row_by_row(separable.dense() if separable.asked is None else separable.asked)
    if len(shape) < len(separable.shape) or not all(size > 0 for size in shape):
        expected = f"{len(separable.shape)} sizes or more, all above 0"
        raise SpecError("choose", given=f"the shape {tuple(shape)}", expected=expected)
    work = "float64" if np.dtype(dtype) == np.float64 else "float32"
    rates = rates or this_machines_rates(work)
    # Of equal ones the first is taken: terms are the same bits everywhere, transforms are not.
    predicted: dict[Method, float] = {
        "separable": rates.of_terms(separable, math.prod(shape)),
        "direct": rates.of_terms(direct, math.prod(shape)),
        "fft": rates.of_fft(separable.shape, shape),
    }
    method = min(predicted, key=lambda way: predicted[way])
    return Verdict(
        method=method,
        predicted_s=predicted,
        separable=separable,
        direct=direct,
        shape=tuple(shape),
        dtype=np.dtype(dtype).name,
    )


def apply_fastest(
    image: ArrayLike,
    kernel: Terms | ArrayLike | Tensor,
    border: Border | str = "reflect",
    tolerance: float = TOLERANCE,
    *,
    axes: Sequence[int] | None = None,
    flip: bool = False,
    dtype: DTypeLike | None = None,
) -> NDArray[Any]:
    """``apply`` in the way that ``choose`` finds; between machines and sizes the result may differ by rounding.

    The bits of ``apply`` itself never depend on the machine's speed or the image's size. An image with NaN or
    infinity is never transformed.
    """
    pixels = np.asarray(image)
    terms = as_terms(kernel, tolerance)
    where = checked_axes(axes, len(terms.shape), pixels.ndim)
    if pixels.size:
        others = [size for axis, size in enumerate(pixels.shape) if axis not in where]
        shape = [*others, *(pixels.shape[axis] for axis in where)]
        verdict = choose(kernel, shape, pixels.dtype, tolerance)
        if verdict.method == "fft" and np.isfinite(pixels).all():
            return apply_fft(pixels, kernel, border, axes=axes, flip=flip, dtype=dtype)
        terms = verdict.terms or terms
    return np.asarray(apply(pixels, terms, border, axes=axes, flip=flip, dtype=dtype))


def this_machines_rates(work: str, ledger: Ledger | None = None) -> Rates:
    """The rates of this machine with as many threads as PyTorch uses, in float32 or float64: measured once, then
    kept."""
    ledger = ledger or Ledger()
    image = np.ones(PROBE_SHAPE, work)
    one, long = box(SHORT), box(LONG)
    many = Terms(terms=one.terms * MANY)
    runs = {
        "one": lambda: apply(image, one),
        "long": lambda: apply(image, long),
        "many": lambda: apply(image, many),
        "fft": lambda: apply_fft(image, long),
    }
    seconds = {}
    for name, run in runs.items():
        key = {
            "filters": name,
            "work": work,
            "machine": this_machine(),
            "threads": torch.get_num_threads(),
            "software": this_software(),
        }
        timing = ledger.get(key)
        if timing is None:
            timing = measure(run, min_s=0.05, max_s=0.5)
            ledger.put(key, timing)
        seconds[name] = timing.min_s
    return _fitted(seconds, Rates(pixel_s=0, term_s=0, mac_s=0, fft_s=1).of_fft(long.shape, PROBE_SHAPE))


def _fitted(seconds: Mapping[str, float], transforms: float) -> Rates:
    """Three times of ``apply`` give its three rates; noise can make none of them negative."""
    each = {name: value / math.prod(PROBE_SHAPE) for name, value in seconds.items()}
    mac = max(0.0, (each["long"] - each["one"]) / (2 * (LONG - SHORT)))
    term = max(0.0, (each["many"] - each["one"]) / (MANY - 1) - 2 * SHORT * mac)
    pixel = max(0.0, each["one"] - term - 2 * SHORT * mac)
    return Rates(pixel_s=pixel, term_s=term, mac_s=mac, fft_s=seconds["fft"] / transforms)
