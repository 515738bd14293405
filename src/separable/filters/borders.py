"""What lies beside an image. In: a rule's name and a size. Out: which pixel stands at any place outside."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from separable.errors import SpecError

Rule = Literal["reflect", "mirror", "nearest", "wrap", "constant"]
RULES: tuple[Rule, ...] = ("reflect", "mirror", "nearest", "wrap", "constant")


@dataclass(frozen=True)
class Border:
    """The rule for pixels outside, named as in scipy.ndimage; ``value`` stands everywhere when it is ``"constant"``.

    ``reflect`` d c b a | a b c d | d c b a · ``mirror`` d c b | a b c d | c b a · ``nearest`` a a a | a b c d | d d d ·
    ``wrap`` b c d | a b c d | a b c. Each goes on for ever: a kernel may be larger than the image.
    """

    rule: Rule = "reflect"
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise SpecError("Border", given=repr(self.rule), expected=f"one of {list(RULES)}")
        if not isinstance(self.value, int | float | np.integer | np.floating):
            raise SpecError("Border", given=f"the value {self.value!r}", expected="a real number")

    def pixels(self, first: int, last: int, size: int) -> NDArray[np.int64]:
        """For each place from ``first`` to ``last`` − 1 the pixel of ``size`` that stands there; −1 for the value.

        >>> Border("mirror").pixels(-3, 7, 4).tolist()
        [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]
        """
        places = np.arange(first, last, dtype=np.int64)
        if self.rule == "nearest":
            return np.clip(places, 0, size - 1)
        if self.rule == "wrap":
            return places % size
        if self.rule == "constant":
            return np.where((places < 0) | (places >= size), -1, places)
        if self.rule == "reflect":
            turned = places % (2 * size)
            return np.minimum(turned, 2 * size - 1 - turned)
        turned = places % max(2 * size - 2, 1)
        return np.minimum(turned, 2 * size - 2 - turned)


def as_border(border: Border | str) -> Border:
    """A rule's name as a border; a border as it is."""
    return border if isinstance(border, Border) else _named(border)


@functools.cache
def _named(rule: str) -> Border:
    return Border(cast(Rule, rule))
