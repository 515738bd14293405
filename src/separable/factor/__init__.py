"""Room: one weight into smaller ones. In: a convolution's weight, and data where there is some. Out: ``Factors``."""

from separable.factor.factors import Factor, Factors, compose
from separable.factor.families import FAMILIES
from separable.factor.family import Family, Rank
from separable.factor.fit import Fitted, fit, fit_each
from separable.factor.kernel2d import Pair, Separated, is_separable, separate
from separable.factor.moments import Moments, response_error

__all__ = [
    "FAMILIES",
    "Factor",
    "Factors",
    "Family",
    "Fitted",
    "Moments",
    "Pair",
    "Rank",
    "Separated",
    "compose",
    "fit",
    "fit_each",
    "is_separable",
    "response_error",
    "separate",
]
