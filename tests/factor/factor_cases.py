"""Cases for the tests of factor. In: hypothesis' draws. Out: small convolutions of every kind, and what is true."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from separable.factor import FAMILIES, Factors, Family
from separable.spec import ConvSpec

TORCH_CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@st.composite
def conv_specs(draw: st.DrawFn, channels: int = 4) -> ConvSpec:
    """Up to 3 axes and 3 groups, every axis with its own kernel, size, stride, dilation and two paddings."""
    dims, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))

    def along(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=dims, max_size=dims))

    return ConvSpec(
        groups * draw(st.integers(1, channels)),
        groups * draw(st.integers(1, channels)),
        kernel=along(1, 4),
        size=along(7, 9),
        stride=along(1, 3),
        padding=list(zip(along(0, 3), along(0, 3), strict=True)),
        dilation=along(1, 2),
        groups=groups,
    )


def families_for(spec: ConvSpec) -> list[Family]:
    """Those that do not refuse it."""
    return [family for family in FAMILIES.values() if family.refuses(spec) is None]


@st.composite
def ranks_for(draw: st.DrawFn, family: Family, spec: ConvSpec) -> tuple[int, ...]:
    """Any rank that the family takes."""
    rank: list[int] = []
    for at, full in enumerate(family.ranks(spec)):
        # In a tensor train no more can come out of a pass than went in, times its taps.
        most = min(full, rank[0] * spec.kernel[1]) if family.name == "spatial" and at else full
        rank.append(draw(st.integers(1, most)))
    return tuple(rank)


def random_tensor(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def convolve(x: Tensor, weight: Tensor, spec: ConvSpec, padding_mode: str = "constant") -> Tensor:
    """PyTorch's own convolution."""
    amounts = [amount for pair in reversed(spec.padding) for amount in pair]
    padded = F.pad(x, amounts, mode=padding_mode) if any(amounts) else x
    convolution = TORCH_CONVS[spec.dims]
    return convolution(padded, weight, stride=spec.stride, dilation=spec.dilation, groups=spec.groups)


def run_chain(x: Tensor, factors: Factors, padding_mode: str = "constant") -> Tensor:
    for factor in factors.factors:
        x = convolve(x, factor.weight, factor.spec, padding_mode)
    return x


def relative_error(wanted: Tensor, got: Tensor) -> float:
    """‖wanted − got‖² / ‖wanted‖²."""
    return float((wanted - got).square().sum() / wanted.square().sum())


def dropped(matrix: Tensor, rank: int) -> float:
    """The energy of the singular values after the first ``rank`` ones, by LAPACK."""
    return float(torch.linalg.svdvals(matrix)[..., rank:].square().sum())


def each_rank(full: Sequence[int]) -> list[tuple[int, ...]]:
    return [
        tuple(rank)
        for rank in torch.cartesian_prod(*(torch.arange(1, most + 1) for most in full)).reshape(-1, len(full)).tolist()
    ]
