"""What others do without training. In: a trained network, a share of its MACs. Out: their version within that share.

Every method rewrites the same layers: the convolutions larger than 1×1 that read more than one channel.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping

import tltorch
import torch
from torch import Tensor, nn

from separable.cost import count
from separable.graph import replace

Score = Callable[[nn.Module], float]
Scores = Mapping[str, Mapping[float, float]]

# AIMET tries each layer at these shares of its MACs (num_comp_ratio_candidates = 10, its default).
CANDIDATES = tuple(tenth / 10 for tenth in range(9, 0, -1))
CP_ITERATIONS = 30
# Where the search over the score ends, relative to the range of scores (aimet_common, comp_ratio_select.py).
SCORE_WINDOW = 1e-4


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """The layers to rewrite, by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1 and layer.in_channels > 1
    }


def spatial_svd(layer: nn.Conv2d, share: float) -> nn.Sequential:
    """AIMET's spatial SVD: k_h×1 then 1×k_w, at the largest rank within a share of the layer's MACs.

    aimet_torch, SpatialSvdModuleSplitter and SpatialSvdCostCalculator; the truncated SVD of the (c_in·k_h, c_out·k_w)
    matrix, each half of the singular values' square roots.
    """
    c_out, c_in, k_h, k_w = layer.weight.shape
    s_h, s_w = layer.stride
    dense, unit = c_in * c_out * k_h * k_w, c_in * k_h * s_w + c_out * k_w
    rank = max(1, min(int(share * dense / unit), c_in * k_h, c_out * k_w))
    matrix = layer.weight.detach().double().permute(1, 2, 0, 3).reshape(c_in * k_h, c_out * k_w)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    first = nn.Conv2d(c_in, rank, (k_h, 1), (s_h, 1), (layer.padding[0], 0), bias=False)
    second = nn.Conv2d(rank, c_out, (1, k_w), (1, s_w), (0, layer.padding[1]), bias=layer.bias is not None)
    with torch.no_grad():
        first.weight.copy_((left[:, :rank] * root).T.reshape(rank, c_in, k_h, 1))
        second.weight.copy_((root[:, None] * right[:rank]).reshape(rank, c_out, 1, k_w).transpose(0, 1))
        if layer.bias is not None:
            second.bias.copy_(layer.bias)
    return nn.Sequential(first, second)


def uniform_spatial_svd(model: nn.Module, example: Tensor, share: float) -> nn.Module:
    """Spatial SVD with one share for all layers, the largest with which the model keeps its own."""

    def at(ratio: float) -> nn.Module:
        return replace(model, {name: spatial_svd(layer, ratio) for name, layer in convolutions(model).items()})

    return at(_largest(lambda ratio: count(at(ratio), example).total.macs, share * count(model, example).total.macs))


def svd_scores(model: nn.Module, score: Score) -> Scores:
    """First half of AIMET's choice of ranks: each layer alone at each candidate share, scored (higher is better)."""
    return {
        name: {ratio: score(replace(model, {name: spatial_svd(layer, ratio)})) for ratio in CANDIDATES}
        for name, layer in convolutions(model).items()
    }


def greedy_spatial_svd(model: nn.Module, example: Tensor, share: float, scores: Scores) -> nn.Module:
    """Second half, GreedyCompRatioSelectAlgo: the score is searched, by bisection, at which the model keeps its share.

    Each layer gets the smallest share that scores no less. What the steps of a tenth leave of the budget stays unused.
    """
    layers = convolutions(model)

    def at(wanted: float) -> nn.Module:
        chosen = {name: cheapest_share(by_ratio, wanted) for name, by_ratio in scores.items()}
        return replace(model, {n: spatial_svd(layers[n], ratio) for n, ratio in chosen.items() if ratio is not None})

    most = share * count(model, example).total.macs
    low, high = (extreme(s for by_ratio in scores.values() for s in by_ratio.values()) for extreme in (min, max))
    window = (high - low) * SCORE_WINDOW
    while high - low > window:
        middle = statistics.mean([low, high])
        low, high = (low, middle) if count(at(middle), example).total.macs > most else (middle, high)
    return at(low)


def cheapest_share(scores: Mapping[float, float], wanted: float) -> float | None:
    """The smallest share before the first, from the top, that scores less than is wanted; None: leave the layer."""
    shares = sorted(scores, reverse=True)
    if wanted > scores[shares[0]]:
        return None
    if wanted < scores[shares[-1]]:
        return shares[-1]
    return next((above for above, below in itertools.pairwise(shares) if wanted > scores[below]), None)


def tensorly_torch(model: nn.Module, example: Tensor, share: float, factorization: str) -> nn.Module:
    """Every layer as tensorly-torch's FactorizedConv, "cp" or "tucker", with one rank ratio, and run factorised.

    Tucker leaves the kernel's own axes whole: decomposing them saves nothing in factorised form. The ratio is the
    largest with which the model keeps its share of MACs, counted as they are executed.
    """
    fixed = "spatial" if factorization == "tucker" else None
    # CP fills ranks beyond the channels at random. Its default of a hundred iterations takes three times as long.
    options = {"random_state": 0, "n_iter_max": CP_ITERATIONS} if factorization == "cp" else {}

    def at(ratio: float, *, is_trial: bool) -> nn.Module:
        return replace(
            model,
            {
                name: tltorch.FactorizedConv.from_conv(
                    layer,
                    rank=ratio,
                    factorization=factorization,
                    implementation="factorized",
                    decompose_weights=not is_trial,
                    decomposition_kwargs=options,
                    fixed_rank_modes=fixed,
                )
                for name, layer in convolutions(model).items()
            },
        )

    def macs(ratio: float) -> int:
        return count(at(ratio, is_trial=True), example).total.macs

    return at(_largest(macs, share * count(model, example).total.macs), is_trial=False)


def _largest(macs: Callable[[float], int], most: float) -> float:
    """The largest ratio between 0 and 1, to a thousandth, with at most so many MACs."""
    low, high = 0, 1000
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if macs(middle / 1000) <= most else (low, middle)
    return low / 1000
