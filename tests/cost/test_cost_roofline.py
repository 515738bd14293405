"""In: costs and a machine with round rates. Out: that predicted times and bounds are those of division by hand."""

import json

import pytest
import torch
from torch import nn

from separable.cost import Machine, count, predict, predict_model
from separable.spec import ConvSpec

ROUND = Machine(name="round", cores=2, threads=2, instruction_sets=("avx2",), fma_per_s=1e9, bytes_per_s=1e8)


def test_a_dense_layer_is_bound_by_arithmetic_and_a_depthwise_one_by_memory() -> None:
    dense = ConvSpec(32, 32, kernel=3, size=10, padding=1)
    assert predict(dense, ROUND).bound == "compute"
    assert predict(dense, ROUND).seconds == pytest.approx(9 * 32 * 32 * 100 / 1e9)
    depthwise = ConvSpec(32, 32, kernel=3, size=10, padding=1, groups=32)
    assert predict(depthwise, ROUND).bound == "memory"
    assert predict(depthwise, ROUND).seconds == pytest.approx(4 * (2 * 3200 + 288) / 1e8)


def test_a_batch_multiplies_arithmetic_and_activations_but_not_weights() -> None:
    dense = ConvSpec(32, 32, kernel=3, size=10, padding=1)
    assert predict(dense, ROUND, batch=7).seconds == pytest.approx(7 * predict(dense, ROUND).seconds)
    depthwise = ConvSpec(32, 32, kernel=3, size=10, padding=1, groups=32)
    assert predict(depthwise, ROUND, batch=7).seconds == pytest.approx(4 * (7 * 2 * 3200 + 288) / 1e8)


def test_a_counted_layer_moves_its_weights_at_every_call() -> None:
    linear = nn.Linear(100, 100, bias=False)
    (layer,) = count(nn.Sequential(linear, linear), torch.empty(1, 100)).layers
    assert predict(layer, ROUND).seconds == pytest.approx(2 * 4 * (100 * 100 + 200) / 1e8)


def test_a_model_takes_the_sum_of_the_layers_that_run() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    cost = count(model, torch.empty(2, 3, 5, 5))
    predicted = predict_model(cost, ROUND)
    assert predicted.layers == {layer.name: predict(layer, ROUND) for layer in cost.layers}
    assert predicted.seconds == pytest.approx(sum(layer.seconds for layer in predicted.layers.values()))
    assert json.loads(json.dumps(predicted.to_json()))["seconds"] == predicted.seconds
    assert "Predicted, not measured" in str(predicted)
    assert str(predicted).splitlines()[-1].split()[0] == "total"


def test_a_layer_that_never_runs_takes_no_time() -> None:
    attention = nn.MultiheadAttention(8, 2)
    x = torch.empty(3, 1, 8)
    assert list(predict_model(count(attention, (x, x, x)), ROUND).layers) == [""]
