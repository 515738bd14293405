"""Space apart from channels. In: a weight k × k. Out: a depthwise k × k of t terms and a 1 × 1, in either order.

J. Guo, Y. Li, W. Lin, Y. Chen, J. Li, "Network decoupling: from regular to depthwise separable convolutions", BMVC
2018. Depthwise first: for each input channel the truncated singular value decomposition of its c_out × k² taps.
Depthwise last: the same for each output channel and its c_in × k² taps. Each is the best that its form can be.
"""

from __future__ import annotations

import math

from torch import Tensor

from separable.factor.family import Family, Rank, Step, Truncate
from separable.factor.rank import spectrum
from separable.spec import ConvSpec


def _refuses(spec: ConvSpec) -> str | None:
    if math.prod(spec.kernel) == 1:
        return "A kernel of one tap has no space to take apart."
    return "Each group has one input channel: this is a depthwise convolution already." if _is_depthwise(spec) else None


def _is_depthwise(spec: ConvSpec) -> bool:
    return spec.groups == spec.c_in and spec.groups > 1


def _full_first(spec: ConvSpec) -> Rank:
    return (min(math.prod(spec.kernel), spec.c_out // spec.groups),)


def _full_last(spec: ConvSpec) -> Rank:
    return (min(math.prod(spec.kernel), spec.c_in // spec.groups),)


def _steps_first(spec: ConvSpec, rank: Rank) -> list[Step]:
    return [Step(spec.c_in * rank[0], spec.c_in, range(spec.dims)), Step(spec.c_out, spec.groups, ())]


def _steps_last(spec: ConvSpec, rank: Rank) -> list[Step]:
    return [Step(spec.c_out * rank[0], spec.groups, ()), Step(spec.c_out, spec.c_out, range(spec.dims))]


def _split_first(weight: Tensor) -> Truncate:
    c_in, *kernel = weight.shape[2:]
    channels = spectrum(weight.flatten(3).transpose(1, 2))

    def truncate(rank: Rank) -> tuple[list[Tensor], float]:
        left, right, lost = channels.truncate(rank[0])
        ones = [1] * len(kernel)
        pointwise = left.permute(0, 2, 1, 3).reshape(-1, c_in * rank[0], *ones)
        return [right.reshape(-1, 1, *kernel), pointwise], lost

    return truncate


def _split_last(weight: Tensor) -> Truncate:
    c_in, *kernel = weight.shape[2:]
    channels = spectrum(weight.flatten(3))

    def truncate(rank: Rank) -> tuple[list[Tensor], float]:
        left, right, lost = channels.truncate(rank[0])
        ones = [1] * len(kernel)
        return [left.mT.reshape(-1, c_in, *ones), right.reshape(-1, rank[0], *kernel)], lost

    return truncate


DEPTHWISE = Family(name="depthwise", refuses=_refuses, full=_full_first, steps=_steps_first, split=_split_first)
DEPTHWISE_LAST = Family(name="depthwise_last", refuses=_refuses, full=_full_last, steps=_steps_last, split=_split_last)
