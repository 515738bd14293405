"""The kernels by name. In: a name and options, as words give them. Out: ``Terms``."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from separable.errors import SpecError
from separable.filters.differences import difference_of_gaussians, laplacian, laplacian_of_gaussian, unsharp_mask
from separable.filters.edges import farid, prewitt, scharr, sobel
from separable.filters.gabor import gabor
from separable.filters.smooth import binomial, box, gaussian, gaussian_derivative
from separable.filters.terms import Terms

# Functions of an axis: an image has one such derivative for each of its axes.
DERIVATIVES: dict[str, Callable[..., Terms]] = {
    kernel.__name__: kernel for kernel in (sobel, scharr, prewitt, farid, gaussian_derivative)
}
KERNELS: dict[str, Callable[..., Terms]] = DERIVATIVES | {
    kernel.__name__: kernel
    for kernel in (
        *(gaussian, box, binomial, laplacian, laplacian_of_gaussian, difference_of_gaussians, unsharp_mask, gabor),
    )
}


def kernel_named(name: str, **options: Any) -> Terms:
    """The kernel of a name; SpecError, with the nearest names, where there is none, and for an option it does not take.

    >>> kernel_named("binomial", order=2, normalized=False).terms[0].kernels[0]
    array([1, 2, 1])
    """
    kernel = _known(name)
    taken = inspect.signature(kernel).parameters
    for option in options:
        if option not in taken:
            raise SpecError(f"kernel {name}", given=f"the option {option}", expected=f"some of {', '.join(taken)}")
    for option, parameter in taken.items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            raise SpecError(f"kernel {name}", given=f"no {option}", expected="a value for it")
    return kernel(**options)


def _known(name: str) -> Callable[..., Terms]:
    if name not in KERNELS:
        near = difflib.get_close_matches(name, KERNELS, n=3, cutoff=0.5)
        remedy = f"Did you mean {' or '.join(near)}?" if near else ""
        raise SpecError("kernel", given=repr(name), expected=f"one of {', '.join(KERNELS)}", remedy=remedy)
    return KERNELS[name]
