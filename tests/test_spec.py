"""What the shared nouns promise: sizes as PyTorch computes them, JSON both ways, and one clear error for nonsense."""

import json
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from separable.errors import BudgetError, MissingExtraError, SpecError
from separable.spec import Budget, ConvSpec, TensorSpec

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))

    def per_axis(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    return {
        "c_in": groups * draw(st.integers(1, 2)),
        "c_out": groups * draw(st.integers(1, 2)),
        "kernel": per_axis(1, 3),
        "size": per_axis(5, 9),
        "stride": per_axis(1, 3),
        "padding": per_axis(0, 2),
        "dilation": per_axis(1, 2),
        "groups": groups,
    }


@settings(deadline=None, max_examples=60)
@given(arguments())
def test_the_output_size_and_weight_are_those_of_the_pytorch_layer(arguments: dict[str, Any]) -> None:
    spec = ConvSpec(**arguments)
    layer = CONVOLUTIONS[spec.dims - 1](
        spec.c_in, spec.c_out, spec.kernel, spec.stride, arguments["padding"], spec.dilation, spec.groups, device="meta"
    )
    output = layer(torch.empty(1, spec.c_in, *spec.size, device="meta"))
    assert spec.size_out == tuple(output.shape[2:])
    assert spec.weight_shape == tuple(layer.weight.shape)
    assert spec.weights == layer.weight.numel()
    assert spec.macs == spec.weights * output[0, 0].numel()


@settings(deadline=None, max_examples=30)
@given(arguments())
def test_json_gives_the_spec_back(arguments: dict[str, Any]) -> None:
    spec = ConvSpec(**arguments)
    assert ConvSpec(**json.loads(json.dumps(spec.to_json()))) == spec
    assert hash(ConvSpec(**spec.to_json())) == hash(spec)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding_keeps_the_size(kernel: int, dilation: int) -> None:
    spec = ConvSpec(2, 2, kernel, 11, padding="same", dilation=dilation)
    assert spec.size_out == (11, 11)


@pytest.mark.parametrize(
    ("groups", "kernel", "kind"),
    [(1, 3, "dense"), (1, 1, "pointwise"), (4, 3, "depthwise"), (2, 3, "grouped"), (4, 1, "depthwise")],
)
def test_the_kind_is_read_from_groups_and_kernel(groups: int, kernel: int, kind: str) -> None:
    assert ConvSpec(4, 8, kernel, 9, groups=groups).kind == kind


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"c_in": 6, "groups": 4}, r"c_in: got 6; expected a multiple of groups \(=4\)"),
        ({"kernel": 0}, "kernel: got 0"),
        ({"kernel": (3, 3), "size": (8,)}, "same number of axes"),
        ({"size": 2, "kernel": 5}, "room for a kernel of 5×5"),
        ({"padding": "same", "stride": 2}, "'same' at stride 1"),
        ({"padding": -1}, "from 0 up"),
        ({"stride": True}, "positive integer"),
        ({"kernel": (3, 3, 3, 3)}, "1, 2 or 3 spatial axes"),
        ({"padding": (1, 1, 1), "kernel": 3, "size": 9, "stride": (1, 1)}, "same number of axes"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        ConvSpec(**{"c_in": 8, "c_out": 8, "kernel": 3, "size": 9, **wrong})


@pytest.mark.parametrize("value", [0, 1.5, -1, 1, float("nan"), float("inf"), True, "half"])
@pytest.mark.parametrize("limit", ["latency", "macs", "parameters", "error"])
def test_a_budget_that_is_none_is_refused(limit: str, value: Any) -> None:
    with pytest.raises(BudgetError, match=limit):
        Budget(**{limit: value})


def test_a_budget_without_a_limit_is_refused() -> None:
    with pytest.raises(BudgetError, match="at least one"):
        Budget()


def test_a_budget_is_a_share_or_an_amount() -> None:
    assert str(Budget(macs=0.5, parameters=1_000_000)) == "macs ≤ 50 % of the original, parameters ≤ 1,000,000"
    assert str(Budget(latency_s=0.004)) == "latency ≤ 4 ms"
    assert str(Budget(latency_s=1.5)) == "latency ≤ 1500 ms"
    budget = Budget(latency=0.5, error=0.1)
    assert Budget(**json.loads(json.dumps(budget.to_json()))) == budget


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16", "int64", "int32", "int8", "uint8"])
def test_bytes_are_those_of_the_pytorch_tensor(dtype: str) -> None:
    assert TensorSpec(shape=(2, 3, 5), dtype=dtype).bytes == torch.empty(2, 3, 5, dtype=getattr(torch, dtype)).nbytes


def test_an_error_survives_a_process_boundary() -> None:
    error = MissingExtraError("report", package="jinja2", extra="report")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.package, copy.extra) == ("jinja2", "report")
    with pytest.raises(SpecError) as caught:
        ConvSpec(0, 1, 1, 1)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
