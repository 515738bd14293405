"""In: models and examples that do not fit. Out: one error naming the layer, or a count that says what it rests on."""

import logging
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from separable.cost import count
from separable.errors import ModelError

NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2))


@pytest.mark.parametrize(
    ("example", "where", "given", "expected"),
    [
        (torch.empty(1, 4, 5, 5), "layer '0' (Conv2d)", "float32[1, 4, 5, 5]", "float32[n, 3, h, w]"),
        (torch.empty(1, 3, 2, 2), "layer '0' (Conv2d)", "float32[1, 3, 2, 2]", "no smaller than the kernel"),
        (torch.empty(3), "layer '0' (Conv2d)", "float32[3]", "float32[n, 3, h, w]"),
        (torch.empty(1, 3, 6, 6), "layer '3' (Linear)", "float32[1, 64]", "float32[…, 36]"),
        (torch.empty(1, 3, 5, 5, dtype=torch.float64), "layer '0' (Conv2d)", "float64[1, 3, 5, 5]", "float32["),
        (torch.zeros(1, 3, 5, 5, dtype=torch.uint8), "layer '0' (Conv2d)", "uint8[1, 3, 5, 5]", "float32["),
        ((), "the model (Sequential)", "nothing", "what its forward takes"),
        ((torch.empty(1), torch.empty(1)), "the model (Sequential)", "float32[1], float32[1]", "what its forward"),
        ({"x": torch.empty(1)}, "the model (Sequential)", "float32[1]", "what its forward takes"),
        (("text",), "layer '0' (Conv2d)", "str", "float32[n, 3, h, w]"),
        (None, "example", "'NoneType'", "a tensor"),
        (np.zeros((1, 3, 5, 5)), "example", "'ndarray'", "a tensor"),
    ],
)
def test_an_example_that_does_not_fit_is_one_error_with_the_layer_where_it_broke(
    example: object, where: str, given: str, expected: str
) -> None:
    with pytest.raises(ModelError) as raised:
        count(NETWORK, example)
    error = raised.value
    assert where in error.where
    assert error.given == given
    assert expected in error.expected
    assert "\n" not in str(error)


def test_a_wrong_dtype_is_met_where_pytorch_would_let_it_pass_without_values() -> None:
    with pytest.raises(ModelError, match=r"layer '0' \(Linear\).*float64\[2, 3\].*float32"):
        count(nn.Sequential(nn.Linear(3, 4, bias=False)), torch.empty(2, 3, dtype=torch.float64))


def test_an_error_of_the_forward_itself_is_told_with_its_module_and_kept_as_the_cause() -> None:
    class Fails(nn.Module):
        def forward(self, _x: Tensor) -> Tensor:
            raise ZeroDivisionError("split by nothing\nand more")

    with pytest.raises(ModelError, match=r"layer '1' \(Fails\).*split by nothing") as raised:
        count(nn.Sequential(nn.ReLU(), Fails()), torch.empty(1))
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert pickle.loads(pickle.dumps(raised.value)).where == raised.value.where


def test_an_error_that_the_model_catches_is_none() -> None:
    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Linear(9, 9)
            self.narrow = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.wide(x)
            except RuntimeError:
                return self.narrow(x) @ torch.ones(3, 3)

    cost = count(Tries(), torch.empty(1, 3))
    assert {layer.name: layer.cost.macs for layer in cost.layers} == {"wide": 0, "narrow": 9, ":matmul": 9}


def test_what_is_no_model_is_refused() -> None:
    for model in ("resnet50", None, {"weight": torch.empty(1)}):
        with pytest.raises(ModelError, match="a ConvSpec, or a model and an example"):
            count(model, torch.empty(1))


def test_a_lazy_layer_is_refused_with_the_remedy() -> None:
    with pytest.raises(ModelError, match=r"parameter '0\.weight'.*Run the model once"):
        count(nn.Sequential(nn.LazyConv2d(3, 3)), torch.empty(1, 3, 5, 5))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_refused_with_the_remedy() -> None:
    with pytest.raises(ModelError, match=r"module '0'.*TorchScript"):
        count(nn.Sequential(torch.jit.script(nn.Linear(2, 2))), torch.empty(1, 2))


def test_a_wrong_example_writes_nothing_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelError):
        count(nn.Linear(3, 3, bias=False), torch.empty(1, 4))
    assert not caplog.records


class Branches(nn.Module):
    """One product for positive inputs, two otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y if x.sum() > 0 else self.linear(y)


class LeavesPyTorch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.from_numpy(np.eye(4, dtype=np.float32) + x.numpy())


class KeepsSome(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0].reshape(-1, 1) @ torch.ones(1, 2)


@torch.library.custom_op("separable_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


class RunsACustomOperator(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return twice(x) @ x


def test_a_forward_that_branches_on_values_is_counted_on_the_path_that_the_example_takes() -> None:
    assert count(Branches(), torch.ones(1, 4)).total.macs == 16
    cost = count(Branches(), -torch.ones(1, 4))
    assert cost.total.macs == 32
    assert "needs values" in cost.notes[0]


def test_not_a_number_takes_a_path_too() -> None:
    assert count(Branches(), torch.full((1, 4), torch.nan)).total.macs == 32


def test_a_number_of_elements_that_depends_on_values_is_that_of_the_example() -> None:
    cost = count(KeepsSome(), torch.tensor([1.0, -1.0, 2.0]))
    assert cost.total.macs == 4
    assert "nonzero" in cost.notes[0]


def test_a_forward_that_leaves_pytorch_is_counted_as_far_as_pytorch_sees_it() -> None:
    cost = count(LeavesPyTorch(), torch.ones(4, 4))
    assert cost.total.macs == 64
    assert "numpy" in cost.notes[0]


def test_a_custom_operator_without_a_shape_rule_runs_once_and_is_listed_as_unknown() -> None:
    cost = count(RunsACustomOperator(), torch.ones(4, 4))
    assert cost.total.macs == 64
    assert cost.unknown == ("separable_tests::twice",)
    assert len(cost.notes) == 1


@pytest.mark.parametrize("model", [Branches(), LeavesPyTorch(), KeepsSome(), RunsACustomOperator()])
def test_a_forward_that_needs_values_and_gets_none_is_refused(model: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"meta device.*a model and an example with values"):
        count(model, torch.empty(4, 4, device="meta"))


def test_a_wrong_shape_on_a_path_that_needs_values_names_the_layer_too() -> None:
    model = nn.Sequential(KeepsSome(), nn.Linear(3, 3))
    with pytest.raises(ModelError, match=r"layer '1' \(Linear\).*float32\[2, 2\]"):
        count(model, torch.ones(2))
