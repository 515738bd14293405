"""Types of pixels. In: an image, a kernel, what was asked for. Out: the type to compute in, the type of the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from separable.errors import DataError
from separable.filters.terms import Terms
from separable.kernels.filter_types import PIXELS

__all__ = ["PIXELS", "Types", "checked_image", "checked_out", "checked_type", "choose_types", "rounded"]

COMPLEX = {"float": "complex64", "double": "complex128"}
KNOWN = frozenset(np.dtype(order + np.dtype(name).str[1:]) for name in PIXELS for order in "<>")
EXPECTED = f"one of {', '.join(PIXELS)}"
# A kernel that a tolerance has put slightly below zero somewhere is still one without negative weights.
NEGATIVE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Types:
    """``work`` is ``"float"`` or ``"double"``; ``part`` is the type of either part of a complex ``result``."""

    work: str
    result: np.dtype[Any]
    part: np.dtype[Any]


def choose_types(image: np.dtype[Any], terms: Terms, wanted: DTypeLike | None) -> Types:
    """What an image of this type and these terms are computed in, and what they give."""
    is_complex = terms.dtype.kind == "c"
    result: np.dtype[Any] | None = None if wanted is None else np.dtype(wanted)
    if is_complex:
        is_double = image == np.float64 or result == np.complex128
        work = "double" if is_double else "float"
        if result is not None and result.name not in COMPLEX.values():
            raise DataError("apply", given=f"a complex kernel for {result}", expected="complex64 or complex128")
        found: np.dtype[Any] = np.dtype(COMPLEX[work]) if result is None else result
        return Types(work=work, result=found, part=np.dtype(f"float{4 * found.itemsize}"))
    if result is None:
        result = np.dtype(np.float32) if image.kind in "iu" and _is_signed(terms) else image.newbyteorder("=")
    if result.name not in PIXELS:
        raise DataError("apply", given=f"the result type {result}", expected=EXPECTED)
    work = "double" if np.float64 in (image.newbyteorder("="), result.newbyteorder("=")) else "float"
    return Types(work=work, result=result, part=result)


def checked_image(image: Any) -> NDArray[Any]:
    """An image as an array; DataError unless its type is one that can be filtered."""
    if isinstance(image, np.ma.MaskedArray):
        raise DataError(
            "apply", given="a masked array", expected="plain pixels", remedy="Give its data and mask to apply_masked."
        )
    array = np.asarray(image)
    checked_type(array.dtype)
    return array


def checked_type(dtype: np.dtype[Any]) -> None:
    """DataError unless this is a type of pixels."""
    if dtype not in KNOWN:
        remedy = "Convert it with image.astype(...)." if dtype.kind in "biuf" else ""
        raise DataError("apply", given=f"an image of type {dtype}", expected=EXPECTED, remedy=remedy)


def checked_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], wanted: DTypeLike | None) -> NDArray[Any]:
    """``out`` where it is given and fits, else a new array of type ``dtype``."""
    if out is None:
        return np.empty(shape, dtype)
    if wanted is not None and np.dtype(wanted) != out.dtype:
        raise DataError("apply", given=f"out of type {out.dtype} and dtype={wanted}", expected="one of them")
    if not isinstance(out, np.ndarray) or out.shape != shape or not out.flags.writeable:
        given = f"{'a read-only ' if isinstance(out, np.ndarray) else ''}out of shape {getattr(out, 'shape', None)}"
        raise DataError("apply", given=given, expected=f"an array of shape {shape} that can be written")
    return out


def rounded(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Floats as pixels: to the nearest integer, ties to even, within the limits of the type; NaN becomes 0."""
    if dtype.kind not in "iu":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    whole = np.clip(np.rint(np.where(np.isnan(values), 0, values)), limits.min, limits.max)
    return np.asarray(whole, dtype)


def _is_signed(terms: Terms) -> bool:
    if all((kernel >= 0).all() for term in terms.terms for kernel in term.kernels):
        return False
    dense = terms.dense()
    return bool(dense.min() < -NEGATIVE * abs(dense.max()))
