"""Which weights decay. In: modules of every kind. Out: each trained weight in exactly one of two groups."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from separable import models
from separable import nn as snn
from separable.errors import ModelError, SeparableError
from separable.tune import TrainOptions, parameter_groups, train


def decaying(model: nn.Module) -> set[str]:
    """The names of the weights that decay; the two groups together hold every trained weight once."""
    spared, shrunk = parameter_groups(model, 0.1)
    assert (spared["weight_decay"], shrunk["weight_decay"]) == (0.0, 0.1)
    everything = [*spared["params"], *shrunk["params"]]
    assert sorted(map(id, everything)) == sorted(id(weight) for weight in model.parameters() if weight.requires_grad)
    ids = {id(weight) for weight in shrunk["params"]}
    return {name for name, weight in model.named_parameters(remove_duplicate=False) if id(weight) in ids}


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (nn.Conv2d(8, 4, 3), {"weight"}),
        (nn.Conv2d(8, 8, 3, groups=2), {"weight"}),
        (nn.Conv2d(1, 8, 3), {"weight"}),  # the stem of a gray image, which reads one channel but is not depthwise
        (nn.Conv2d(8, 8, 3, groups=8), set()),
        (nn.Conv1d(8, 16, 3, groups=8), set()),
        (nn.Conv3d(8, 8, 3, groups=8), set()),
        (nn.ConvTranspose2d(8, 8, 3, groups=8), set()),
        (snn.DepthwiseConv2d(8, 5), set()),
        (snn.DepthwiseSeparableConv2d(8, 4, 3), {"pointwise.weight"}),
        (weight_norm(nn.Conv2d(8, 8, 3, groups=8)), set()),
        (nn.Linear(3, 2), {"weight"}),
        (nn.Embedding(5, 3), {"weight"}),
        (nn.BatchNorm2d(4), set()),
        (nn.GroupNorm(2, 4), set()),
        (nn.LayerNorm((4, 5)), set()),  # with two axes, and still a norm
        (nn.InstanceNorm2d(4, affine=True), set()),
        (nn.PReLU(4), set()),
        (nn.LSTM(3, 4), {"weight_ih_l0", "weight_hh_l0"}),
    ],
    ids=lambda value: value._get_name() if isinstance(value, nn.Module) else "",
)
def test_depthwise_weights_norms_and_biases_are_spared(module: nn.Module, names: set[str]) -> None:
    assert decaying(module) == names


def test_what_a_mobilenet_lets_decay_are_its_dense_convolutions_and_its_classifier() -> None:
    model = models.mobilenet_v2(width=0.25, classes=3)
    dense = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }
    assert decaying(model) == dense


def test_a_shared_weight_is_in_one_group_and_spared_when_one_of_its_owners_spares_it() -> None:
    class Sharing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(4, 4, 3, groups=4, bias=False)
            self.dense = nn.Conv2d(1, 4, 3, bias=False)
            self.dense.weight = self.depthwise.weight
            self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight

    assert decaying(Sharing()) == {"first.weight", "second.weight"}


def test_what_is_not_trained_is_in_no_group() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    assert decaying(model) == {"1.weight"}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
def test_the_optimisers_of_train_shrink_only_what_decays(optimizer: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.Flatten(2))
    options = TrainOptions(epochs=1, optimizer=optimizer, learning_rate=0.1, weight_decay=0.5, average_decay=0)

    def nothing(outputs: Tensor, _: Tensor) -> Tensor:
        return 0 * outputs.square().mean()

    batch = (torch.randn(3, 4, 3, 3), torch.zeros(3))
    after = train(model, [batch], nothing, options).model.state_dict()
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, after[name])}
    assert changed == {"2.weight"}
    assert after["2.weight"].abs().sum() < model.state_dict()["2.weight"].abs().sum()


@pytest.mark.parametrize("weight_decay", [-1.0, math.nan, math.inf])
def test_a_decay_that_is_none_is_refused(weight_decay: float) -> None:
    with pytest.raises(SeparableError, match="weight_decay="):
        parameter_groups(nn.Linear(2, 2), weight_decay)


def test_a_model_without_trained_weights_is_refused() -> None:
    with pytest.raises(ModelError, match="something to train"):
        train(nn.Linear(2, 2).requires_grad_(False), [(torch.zeros(1, 2), torch.zeros(1))])
