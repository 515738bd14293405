"""Room: separable image filters. In: an image and a kernel. Out: the image, filtered axis by axis."""

from separable.filters.apply import apply
from separable.filters.bank import kernel_named
from separable.filters.borders import Border
from separable.filters.differences import difference_of_gaussians, laplacian, laplacian_of_gaussian, unsharp_mask
from separable.filters.edges import farid, prewitt, scharr, sobel
from separable.filters.fourier import apply_fft
from separable.filters.gabor import gabor
from separable.filters.gradients import gradient, gradient_magnitude, gradient_orientation, structure_tensor
from separable.filters.masked import apply_masked
from separable.filters.prepared import Options
from separable.filters.smooth import binomial, box, gaussian, gaussian_derivative
from separable.filters.split import row_by_row, split
from separable.filters.terms import Term, Terms
from separable.filters.tiles import apply_tiled
from separable.filters.verdict import Verdict, apply_fastest, choose

__all__ = [
    "Border",
    "Options",
    "Term",
    "Terms",
    "Verdict",
    "apply",
    "apply_fastest",
    "apply_fft",
    "apply_masked",
    "apply_tiled",
    "binomial",
    "box",
    "choose",
    "difference_of_gaussians",
    "farid",
    "gabor",
    "gaussian",
    "gaussian_derivative",
    "gradient",
    "gradient_magnitude",
    "gradient_orientation",
    "kernel_named",
    "laplacian",
    "laplacian_of_gaussian",
    "prewitt",
    "row_by_row",
    "scharr",
    "sobel",
    "split",
    "structure_tensor",
    "unsharp_mask",
]
