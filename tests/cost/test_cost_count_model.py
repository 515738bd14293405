"""In: small models. Out: that each layer's cost equals counting by hand, whichever way the layer is written."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from separable.cost import Cost, LayerCost, ModelCost, count
from separable.spec import ConvSpec


class Forward(nn.Module):
    """A model whose forward is a function of tensors."""

    def __init__(self, forward, **modules: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs: Tensor):
        return self.function(*inputs)


def only(cost: ModelCost) -> LayerCost:
    (layer,) = cost.layers
    return layer


def named(cost: ModelCost) -> dict[str, LayerCost]:
    return {layer.name: layer for layer in cost.layers}


def test_every_layer_is_told_by_name_kind_shape_and_cost() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.Conv2d(8, 4, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 10),
    )
    cost = count(model, torch.empty(2, 3, 8, 8))
    assert [(layer.name, layer.kind) for layer in cost.layers] == [
        ("0", "dense"),
        ("1", "norm"),
        ("3", "depthwise"),
        ("4", "pointwise"),
        ("7", "linear"),
    ]
    dense, norm, depthwise, pointwise, linear = (layer.cost for layer in cost.layers)
    maps = 4 * 2 * 8 * 16
    assert dense == Cost(macs=2 * 27 * 8 * 16, parameters=224, weight_bytes=896, activation_bytes=4 * 2 * 3 * 64 + maps)
    assert norm == Cost(macs=0, parameters=16, weight_bytes=64, activation_bytes=2 * maps)
    assert depthwise == Cost(macs=2 * 9 * 8 * 16, parameters=72, weight_bytes=288, activation_bytes=2 * maps)
    assert pointwise == Cost(macs=2 * 32 * 16, parameters=36, weight_bytes=144, activation_bytes=maps + maps // 2)
    assert linear == Cost(macs=2 * 40, parameters=50, weight_bytes=200, activation_bytes=4 * 2 * (4 + 10))
    assert cost.layers[0].specs == (ConvSpec(3, 8, kernel=3, size=8, stride=2, padding=1),)
    assert [layer.batch for layer in cost.layers] == [2, 0, 2, 2, 2]
    assert cost.unknown == cost.notes == ()


def test_totals_and_kinds_are_the_sums_of_the_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    cost = count(model, torch.empty(1, 3, 8, 8))
    assert cost.total == sum((layer.cost for layer in cost.layers), Cost())
    assert cost.by_kind() == {
        "dense": cost.layers[0].cost + cost.layers[1].cost,
        "linear": cost.layers[2].cost,
    }


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_convolution_module_is_told_as_its_attributes_say(dims: int) -> None:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    conv = kind(4, 6, 3, stride=1, padding="same", dilation=2, groups=2)
    layer = only(count(conv, torch.empty(5, 4, *[7] * dims)))
    assert layer.specs == (ConvSpec(4, 6, kernel=3, size=(7,) * dims, padding="same", dilation=2, groups=2),)
    assert layer.cost.macs == 5 * layer.specs[0].macs
    assert (layer.kind, layer.batch, layer.calls) == ("grouped", 5, 1)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_that_a_module_does_first_is_told_as_padding(mode: str) -> None:
    layer = only(count(nn.Conv2d(2, 3, (3, 4), padding=(1, 2), padding_mode=mode), torch.empty(1, 2, 6, 7)))
    assert layer.specs == (ConvSpec(2, 3, kernel=(3, 4), size=(6, 7), padding=(1, 2)),)


def test_a_subclass_that_pads_its_own_way_is_told_as_it_ran() -> None:
    class PadsBehind(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(F.pad(x, (0, 1, 0, 1)))

    layer = only(count(PadsBehind(1, 1, 3, stride=2), torch.empty(1, 1, 6, 6)))
    assert layer.specs == (ConvSpec(1, 1, kernel=3, size=7, stride=2),)


def test_an_image_without_a_batch_axis_is_a_batch_of_one() -> None:
    layer = only(count(nn.Conv2d(3, 4, 3), torch.empty(3, 5, 5)))
    assert (layer.batch, layer.cost.macs) == (1, 972)


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (3, 2)])
def test_a_transposed_convolution_costs_what_the_convolution_costs_that_it_transposes(stride: int, groups: int) -> None:
    up = only(count(nn.ConvTranspose2d(4, 6, 3, stride=stride, groups=groups), torch.empty(2, 4, 5, 5)))
    down = ConvSpec(6, 4, kernel=3, size=(5 - 1) * stride + 3, stride=stride, groups=groups)
    assert down.size_out == (5, 5)
    assert up.cost.macs == 2 * down.macs
    assert (up.kind, up.specs) == ("transposed", ())


def test_a_shared_layer_counts_once_for_parameters_and_each_time_for_macs() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    layer = only(count(nn.Sequential(conv, nn.MaxPool2d(2), conv), torch.empty(1, 4, 8, 8)))
    assert (layer.name, layer.calls) == ("0", 2)
    assert [spec.size for spec in layer.specs] == [(8, 8), (4, 4)]
    assert (layer.cost.parameters, layer.cost.macs) == (144, 144 * (64 + 16))


def test_tied_parameters_count_once() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    cost = count(nn.Sequential(first, second), torch.empty(1, 4))
    assert (cost.total.parameters, cost.total.weight_bytes, cost.total.macs) == (24, 96, 32)


def test_frozen_parameters_are_not_trainable_but_weigh_their_bytes_and_buffers_are_neither() -> None:
    norm = nn.BatchNorm1d(3)
    norm.weight.requires_grad_(False)
    cost = count(norm, torch.empty(2, 3))
    assert (cost.total.parameters, cost.total.weight_bytes) == (3, 24)
    assert cost.notes == ("3 parameters are frozen: in the bytes of weights, not among the trainable parameters.",)


def test_a_layer_that_never_runs_has_parameters_and_no_calls() -> None:
    cost = count(Forward(lambda x: x + 1, spare=nn.Conv2d(1, 1, 3)), torch.empty(1, 1, 4, 4))
    assert (only(cost).name, only(cost).calls, only(cost).cost) == (
        "spare",
        0,
        Cost(macs=0, parameters=10, weight_bytes=40, activation_bytes=0),
    )


def test_a_model_without_parameters_and_without_products_costs_nothing() -> None:
    cost = count(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), torch.empty(1, 3, 4, 4))
    assert cost.layers == ()
    assert cost.total == Cost()


@pytest.mark.parametrize(("dtype", "bytes_each"), [(torch.float64, 8), (torch.bfloat16, 2), (torch.float16, 2)])
def test_bytes_follow_the_dtype(dtype: torch.dtype, bytes_each: int) -> None:
    cost = count(nn.Linear(3, 5, dtype=dtype), torch.empty(2, 3, dtype=dtype)).total
    assert (cost.weight_bytes, cost.activation_bytes) == (20 * bytes_each, 16 * bytes_each)
    assert cost.macs == 30


a, b = torch.empty(2, 3, 4), torch.empty(2, 4, 5)
FUNCTIONAL = {
    "conv1d": (lambda x: F.conv1d(x, torch.ones(6, 3, 2)), (a,), "conv1d", "dense", 2 * 6 * 3 * 2 * 3),
    "conv2d": (lambda x: F.conv2d(x[:, None], torch.ones(2, 1, 2, 2)), (a,), "conv2d", "dense", 2 * 2 * 4 * 2 * 3),
    "depthwise": (lambda x: F.conv1d(x, torch.ones(3, 1, 2), groups=3), (a,), "conv1d", "depthwise", 2 * 3 * 2 * 3),
    "conv_transpose1d": (
        lambda x: F.conv_transpose1d(x, torch.ones(3, 2, 3)),
        (a,),
        "conv_transpose1d",
        "transposed",
        2 * 4 * 3 * 2 * 3,
    ),
    "matmul": (torch.matmul, (a, b), "matmul", "matmul", 2 * 3 * 4 * 5),
    "operator": (lambda x, y: x @ y, (a, b), "matmul", "matmul", 120),
    "bmm": (torch.bmm, (a, b), "matmul", "matmul", 120),
    "baddbmm": (lambda x, y: torch.baddbmm(torch.ones(2, 3, 5), x, y), (a, b), "matmul", "matmul", 120),
    "addbmm": (lambda x, y: torch.addbmm(torch.ones(3, 5), x, y), (a, b), "matmul", "matmul", 120),
    "mm": (lambda x, y: x[0] @ y[0], (a, b), "matmul", "matmul", 60),
    "addmm": (lambda x, y: torch.addmm(torch.ones(5), x[0], y[0]), (a, b), "matmul", "matmul", 60),
    "mv": (lambda x: x[0] @ x[0, 0], (a,), "matmul", "matmul", 12),
    "dot": (lambda x: x[0, 0] @ x[0, 1], (a,), "matmul", "matmul", 4),
    "einsum": (lambda x, y: torch.einsum("nij,njk->nik", x, y), (a, b), "matmul", "matmul", 120),
    "tensordot": (lambda x, y: torch.tensordot(x, y, ([2], [1])), (a, b), "matmul", "matmul", 6 * 4 * 10),
    "linear": (lambda x: F.linear(x, torch.ones(5, 4)), (a,), "matmul", "matmul", 120),
}


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_a_functional_product_is_a_layer_of_the_module_that_runs_it(name: str) -> None:
    function, inputs, label, kind, macs = FUNCTIONAL[name]
    cost = count(nn.Sequential(Forward(function)) if len(inputs) == 1 else Forward(function), inputs)
    layer = only(cost)
    module = "0" if len(inputs) == 1 else ""
    assert (layer.name, layer.module, layer.kind, layer.cost.macs) == (f"{module}:{label}", module, kind, macs)
    assert cost.unknown == ()


def test_attention_counts_both_of_its_products_whatever_kernel_runs_it() -> None:
    # A batch of two, four heads, 16 queries of depth 8 against 20 keys, values of depth 8.
    q, k = torch.empty(2, 4, 16, 8), torch.empty(2, 4, 20, 8)
    cost = count(Forward(F.scaled_dot_product_attention), (q, k, k))
    assert cost.total.macs == 2 * 4 * 16 * 20 * (8 + 8)
    assert cost.by_kind().keys() == {"matmul"}


def test_several_functional_products_of_one_module_are_numbered_and_its_calls_add_up() -> None:
    twice = Forward(lambda x: (x @ x) @ x)
    cost = count(nn.Sequential(twice, twice), torch.empty(3, 3))
    assert {name: (layer.calls, layer.cost.macs) for name, layer in named(cost).items()} == {
        "0:matmul": (2, 54),
        "0:matmul#2": (2, 54),
    }


def test_a_functional_product_with_a_parameter_is_linear() -> None:
    linear = nn.Linear(4, 5)
    cost = count(Forward(lambda x: F.linear(x, linear.weight), linear=linear), torch.empty(2, 4))
    layer = named(cost)[":linear"]
    assert (layer.kind, layer.cost.macs, layer.cost.activation_bytes) == ("linear", 40, 4 * (8 + 10))


def test_what_a_module_with_parameters_multiplies_is_its_own() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.empty(3, 5, 8)
    cost = count(attention, (x, x, x))
    projections, products = 3 * 5 * 8 * 8 * 4, 2 * (3 * 2 * 5 * 5 * 4)
    assert (named(cost)[""].kind, cost.total.macs) == ("linear", projections + products)
    assert cost.total.parameters == sum(p.numel() for p in attention.parameters())


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_a_recurrent_layer_multiplies_by_both_matrices_at_every_step(kind: type[nn.Module], gates: int) -> None:
    cost = count(kind(3, 5), torch.empty(7, 2, 3))
    assert cost.total.macs == 7 * 2 * gates * 5 * (3 + 5)
    assert cost.unknown == ()


def test_a_transformer_layer_is_counted_operation_by_operation() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    cost = count(layer, torch.empty(3, 5, 8))
    assert cost.total.macs == 3 * 5 * 8 * 8 * 4 + 2 * (3 * 2 * 5 * 5 * 4) + 2 * (3 * 5 * 8 * 16)
    assert cost.unknown == ()


def test_a_parametrized_weight_belongs_to_its_layer() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    layer = only(count(conv, torch.empty(1, 3, 5, 5)))
    assert (layer.name, layer.kind, layer.cost.parameters) == ("", "dense", 4 + 108 + 4)
    assert layer.cost.activation_bytes == 4 * (3 * 25 + 4 * 9)


def test_a_weight_in_a_parameter_list_belongs_to_the_module_with_the_list() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([torch.ones(4, 3, 1, 1)])

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weights[0])

    layer = only(count(Listed(), torch.empty(1, 3, 2, 2)))
    assert (layer.name, layer.kind, layer.cost.macs, layer.cost.parameters) == ("", "pointwise", 48, 12)


def test_what_is_not_understood_is_listed_with_its_place_and_not_counted() -> None:
    model = nn.Sequential(Forward(lambda x: torch.fft.rfft(torch.fft.rfft(x).real)))
    cost = count(model, torch.empty(1, 8))
    assert cost.unknown == ("aten::_fft_r2c in '0', 2 times",)
    assert cost.total == Cost()


def test_element_wise_work_pooling_and_views_are_known_to_be_free() -> None:
    def free(x: Tensor) -> Tensor:
        x = F.hardswish(F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear"))
        x = F.pad(F.pixel_shuffle(x, 2), (1, 1, 1, 1), mode="reflect").flip(1).softmax(1)
        x = F.layer_norm(F.normalize(x), x.shape[1:]).mean((2, 3), keepdim=True) * x
        return torch.cat([x, x], 1).transpose(1, 2).reshape(-1)[::2].clone().cumsum(0)

    cost = count(Forward(free), torch.empty(1, 4, 8, 8))
    assert (cost.layers, cost.unknown) == ((), ())


def test_an_example_may_be_real_on_the_meta_device_a_tuple_or_keywords() -> None:
    linear = nn.Linear(4, 5)
    x = torch.rand(3, 4)
    expected = count(linear, x)
    for example in (x.to("meta"), (x,), {"input": x}):
        assert count(linear, example) == expected


def test_a_model_on_the_meta_device_may_meet_a_real_example() -> None:
    with torch.device("meta"):
        conv = nn.Conv2d(3, 4, 3)
    assert count(conv, torch.rand(1, 3, 5, 5)).total.macs == 972


def test_arguments_that_are_no_tensors_are_handed_on() -> None:
    model = Forward(lambda x, times: x @ x if times == 2 else x)
    assert count(model, (torch.empty(3, 3), 2)).total.macs == 27
    assert count(model, (torch.empty(3, 3), 1)).total.macs == 0


def test_the_count_is_the_same_under_inference_mode_autocast_and_compilation() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2))
    x = torch.empty(1, 3, 5, 5)
    expected = count(model, x).total
    with torch.inference_mode():
        assert count(model, x).total == expected
    assert count(torch.compile(model, backend="eager"), x).total == expected
    with torch.autocast("cpu", torch.bfloat16):
        half = count(model, x)
    assert (half.total.macs, half.total.parameters) == (expected.macs, expected.parameters)
    assert half.total.activation_bytes == expected.activation_bytes // 2
    assert [layer.kind for layer in half.layers] == ["dense", "linear"]


def test_the_table_names_the_convention_every_layer_and_the_totals() -> None:
    model = nn.Sequential(Forward(lambda x: torch.fft.rfft(x, n=8).real), nn.Conv2d(3, 4, 3))
    text = str(count(model, torch.empty(1, 3, 5, 8)))
    assert "Counted, not measured" in text
    assert "multiply-accumulates of convolutions and matrix products, no bias" in text
    assert "3→4 3×3 on 5×5" in text
    assert next(line for line in text.splitlines() if "972" in line).split()[:2] == ["1", "dense"]
    assert "Not understood, not counted: aten::_fft_r2c in '0'" in text


def test_a_count_is_plain_json() -> None:
    values = count(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.empty(1, 3, 5, 5)).to_json()
    assert values["total"] == {"macs": 972, "parameters": 112, "weight_bytes": 448, "activation_bytes": 444}
    assert ConvSpec(**values["layers"][0]["specs"][0]) == ConvSpec(3, 4, kernel=3, size=5)
