"""What separable.graph.trace promises: every convolution is found, or skipped with the reason, and nothing changes."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from separable import models
from separable.cost import count
from separable.errors import ModelError
from separable.graph import Sites, trace
from separable.nn import FactorizedConv, PointwiseConv2d, SpatiallySeparableConv2d
from separable.spec import ConvSpec


def traced(*layers: nn.Module, size: int = 8, channels: int = 4) -> Sites:
    return trace(nn.Sequential(*layers), torch.zeros(2, channels, size, size))


def reason(layer: nn.Module, channels: int = 4) -> str:
    sites = traced(layer, channels=channels)
    assert sites.sites == ()
    (skipped,) = sites.skipped
    return skipped.reason


def test_a_site_has_the_name_shape_and_batch_of_its_layer() -> None:
    layer = nn.Conv2d(4, 6, (3, 5), stride=(1, 2), padding=(1, 2), dilation=1, groups=2, bias=False)
    (site,) = traced(nn.ReLU(), layer).sites
    assert site.name == "1"
    assert site.spec == ConvSpec(4, 6, kernel=(3, 5), size=(8, 8), stride=(1, 2), padding=(1, 2), groups=2)
    assert (site.batch, site.calls, site.bias, site.padding_mode) == (2, 1, False, "zeros")
    assert site.macs == 2 * 6 * 2 * 15 * 8 * 4


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_that_the_layer_does_itself_is_part_of_the_site(mode: str) -> None:
    (site,) = traced(nn.Conv2d(4, 4, 3, padding=1, padding_mode=mode)).sites
    assert site.padding_mode == mode
    assert site.spec == ConvSpec(4, 4, kernel=3, size=8, padding=1)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_same_padding_with_an_even_kernel_puts_the_odd_element_behind() -> None:
    (site,) = traced(nn.Conv2d(4, 4, 2, padding="same")).sites
    assert site.spec.padding == ((0, 1), (0, 1))


@pytest.mark.parametrize("dims", [1, 3])
def test_one_and_three_axes_are_found_too(dims: int) -> None:
    conv = (nn.Conv1d, nn.Conv3d)[dims // 2](3, 5, 3)
    (site,) = trace(conv, torch.zeros(1, 3, *[7] * dims)).sites
    assert site.spec == ConvSpec(3, 5, kernel=(3,) * dims, size=(7,) * dims)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = self.again = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(F.max_pool2d(self.conv(x), 2))


def test_a_layer_called_twice_with_different_sizes_is_one_site_with_both() -> None:
    (site,) = trace(Twice(), torch.zeros(1, 3, 8, 8)).sites
    assert (site.name, site.calls, site.sizes) == ("conv", 2, ((8, 8), (4, 4)))
    assert site.macs == 3 * 3 * 9 * (64 + 16)


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.conv(x[:1])


def test_calls_with_different_batch_sizes_are_not_mixed_up() -> None:
    assert "batch" in trace(Rows(), torch.zeros(2, 3, 4, 4)).skipped[0].reason


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Renamed(nn.Conv2d):
    pass


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda _module, _args, output: output)
    return layer


def pruned(layer: nn.Conv2d) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", amount=0.5)  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.ConvTranspose2d(4, 4, 3), "transposed"),
        (nn.Conv2d(4, 8, 3, groups=4), "depthwise"),
        (Doubled(4, 4, 3), "Doubled has a forward of its own"),
        (parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), "parametrization"),
        (parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)), "parametrization"),
        (pruned(nn.Conv2d(4, 4, 3)), "pruning"),
        (hooked(nn.Conv2d(4, 4, 3)), "hooks"),
    ],
)
def test_a_convolution_that_cannot_be_replaced_is_skipped_with_the_reason(layer: nn.Module, why: str) -> None:
    assert why in reason(layer)


def test_the_layers_inside_a_separable_layer_are_left_alone() -> None:
    spec = ConvSpec(4, 4, kernel=3, size=8)
    chain = [ConvSpec(4, 2, kernel=(3, 1), size=(8, 8)), ConvSpec(2, 4, kernel=(1, 3), size=(6, 8))]
    factorized = FactorizedConv(spec, chain, family="spatial", rank=(2,))
    for layer in (factorized, SpatiallySeparableConv2d(4, 4, 3)):
        sites = traced(layer)
        assert sites.sites == ()
        assert {entry.reason for entry in sites.skipped} == {"part of a layer that is separable already"}


def test_a_subclass_that_computes_as_its_parent_is_a_site() -> None:
    assert [site.name for site in traced(Renamed(4, 4, 3), PointwiseConv2d(4, 4)).sites] == ["0", "1"]


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(3, 3, 3, 3))
        self.a, self.b, self.unused = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.b(self.a(x)), self.kernel)


def test_functions_tied_weights_and_layers_that_never_run_are_skipped() -> None:
    sites = trace(Mixed(), torch.zeros(1, 3, 9, 9))
    why = {entry.name: entry.reason for entry in sites.skipped}
    assert sites.sites == ()
    assert why["a"] == why["b"] == "another layer shares its weight or bias"
    assert why["unused"] == "never run on this example"
    assert "function" in why["(model)"]


def test_a_model_without_convolutions_has_no_sites() -> None:
    sites = trace(nn.Linear(3, 2), torch.zeros(1, 3))
    assert (sites.sites, sites.skipped) == ((), ())
    assert sites.cost.total.macs == 6


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.yes, self.no = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.yes(x) if x.sum() > 0 else self.no(x)


@pytest.mark.parametrize(("value", "name"), [(1.0, "yes"), (-1.0, "no")])
def test_a_forward_that_branches_on_data_is_followed_as_the_example_goes(value: float, name: str) -> None:
    sites = trace(Branching(), torch.full((1, 1, 5, 5), value))
    assert [site.name for site in sites.sites] == [name]
    assert sites.cost.notes


def test_a_lazy_layer_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="lazy"):
        trace(nn.Sequential(nn.LazyConv2d(4, 3)), torch.zeros(1, 3, 8, 8))


def test_tracing_changes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    trace(model, torch.randn(2, 3, 8, 8))
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_sites_and_skipped_together_are_all_the_convolutions_of_a_reference_network() -> None:
    model = models.mobilenet_v2().to("meta")
    sites = trace(model, torch.zeros(1, 3, 224, 224, device="meta"))
    convs = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert {site.name for site in sites.sites} | {entry.name for entry in sites.skipped} == convs
    assert len(sites.skipped) == 17  # one depthwise convolution a block
    by_kind = count(model, torch.zeros(1, 3, 224, 224, device="meta")).by_kind()
    assert sum(site.macs for site in sites.sites) == by_kind["dense"].macs + by_kind["pointwise"].macs


def test_the_table_names_sites_shares_and_reasons_and_json_has_them_too() -> None:
    sites = traced(nn.Conv2d(4, 4, 3), nn.ConvTranspose2d(4, 4, 3))
    text = str(sites)
    assert "counted" in text
    assert "10,368   50.0%" in text  # each runs 4·4·9 MACs at 6×6 places in 2 images
    assert "Skipped 1: transposed" in text
    json: dict[str, Any] = sites.to_json()
    assert json["sites"][0]["macs"] == sites.sites[0].macs
    assert json["skipped"] == [{"name": "1", "reason": "transposed"}]
