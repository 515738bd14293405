"""What separable.graph.replace promises: a new model with other modules in it, and the old one as it was."""

import copy

import pytest
import torch
from torch import Tensor, nn

from separable.errors import ModelError
from separable.graph import replace


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))


class Scaled(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x * self.by


def test_the_named_module_is_the_given_one_and_the_original_keeps_its_own() -> None:
    model, new = small(), nn.Conv2d(3, 4, 3)
    old, before = model[0], copy.deepcopy(model.state_dict())
    result = replace(model, {"0": new})
    assert result.get_submodule("0") is new
    assert model[0] is old
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_nothing_of_the_copy_is_shared_with_the_original() -> None:
    model = small()
    result = replace(model, {})
    assert not {id(p) for p in model.parameters()} & {id(p) for p in result.parameters()}


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Conv2d(2, 2, 1)
        self.kept = [self.first]
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.b.weight = self.a.weight


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_module_under_two_names_is_replaced_under_both(name: str) -> None:
    model, new = Shared(), nn.Identity()
    result = replace(model, {name: new})
    assert isinstance(result, Shared)
    assert result.first is new
    assert result.second is new
    assert result.kept[0] is new


def test_two_modules_for_one_place_are_refused() -> None:
    with pytest.raises(ModelError, match="two different modules"):
        replace(Shared(), {"first": nn.Identity(), "second": nn.Identity()})


def test_tied_parameters_stay_tied() -> None:
    result = replace(Shared(), {"first": nn.Identity()})
    assert isinstance(result, Shared)
    assert result.b.weight is result.a.weight


def test_modes_dtype_and_hooks_elsewhere_are_kept() -> None:
    model = small().double().train()
    model[1].eval()
    model[1].register_forward_hook(lambda _module, _args, output: output + 1)
    result = replace(model, {"2": Scaled(2.0).eval()})
    assert [module.training for module in result.modules()] == [True, True, False, True]
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(result(x), 2 * (torch.relu(model[0](x)) + 1))


def test_the_whole_model_can_be_replaced() -> None:
    new = nn.Identity()
    assert replace(nn.Conv2d(1, 1, 1), {"": new}) is new


def test_an_unknown_name_is_refused_with_the_nearest_names() -> None:
    model = nn.ModuleDict({"layer1": nn.Identity(), "layer2": nn.Identity()})
    with pytest.raises(ModelError, match=r"no module 'layer3'.*layer[12]"):
        replace(model, {"layer3": nn.Identity()})


def test_a_model_that_cannot_be_copied_is_refused_clearly() -> None:
    model = small()
    model.cached = model[0].weight * 2  # a tensor that remembers how it was computed
    with pytest.raises(ModelError, match="copyable"):
        replace(model, {"0": nn.Identity()})
