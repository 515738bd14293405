"""Room: separable image filters. In: an image and a kernel. Out: the image, filtered axis by axis."""

from separable.filters.differences import difference_of_gaussians, laplacian, laplacian_of_gaussian, unsharp_mask
from separable.filters.edges import farid, prewitt, scharr, sobel
from separable.filters.gabor import gabor
from separable.filters.smooth import binomial, box, gaussian, gaussian_derivative
from separable.filters.split import row_by_row, split
from separable.filters.terms import Term, Terms

__all__ = [
    "Term",
    "Terms",
    "binomial",
    "box",
    "difference_of_gaussians",
    "farid",
    "gabor",
    "gaussian",
    "gaussian_derivative",
    "laplacian",
    "laplacian_of_gaussian",
    "prewitt",
    "row_by_row",
    "scharr",
    "sobel",
    "split",
    "unsharp_mask",
]
