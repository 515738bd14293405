"""What separable.plan.price promises: counted exactly, timed once, and errors that are true."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from separable import models
from separable.cost import count
from separable.cost.machine import Machine
from separable.errors import DataError, ModelError
from separable.factor import FAMILIES
from separable.graph import replace, trace
from separable.graph.trace import conv_at
from separable.nn import from_factors
from separable.plan import Effort, Prices, price

MACHINE = Machine(name="m", cores=1, threads=1, instruction_sets=(), fma_per_s=1e9, bytes_per_s=1e9)


class Net(nn.Module):
    """Stride, groups, asymmetric and reflecting padding, a layer called twice, a head that is no site."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.twice = nn.Conv2d(16, 16, 3, padding="same")
        self.grouped = nn.Conv2d(16, 24, 4, padding="same", padding_mode="reflect", groups=2)
        self.pointwise = nn.Conv2d(24, 32, 1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.twice(F.relu(self.norm(self.stem(x)))))
        x = F.relu(self.twice(F.max_pool2d(x, 2)))
        x = self.pointwise(F.relu(self.grouped(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    model = Net().eval()
    model(torch.randn(2, 3, 16, 16))
    return model


def example() -> Tensor:
    return torch.zeros(2, 3, 16, 16)


def priced(model: nn.Module, timer: Callable[[nn.Module, Tensor], float] | None = None) -> Prices:
    return price(model, trace(model, example()), example=example(), timer=timer, machine=MACHINE)


EVEN = "ignore:Using padding='same' with even kernel"


@pytest.mark.filterwarnings(EVEN)
@pytest.mark.parametrize("train", [True, False])
def test_macs_and_parameters_are_those_of_the_rewritten_model(net: Net, train: bool) -> None:
    net.grouped.weight.requires_grad_(train)
    prices = priced(net)
    assert {entry.site.name for entry in prices.sites} == {"stem", "twice", "grouped", "pointwise"}
    for entry in prices.sites:
        conv = net.get_submodule(entry.site.name)
        assert isinstance(conv, nn.Conv2d)
        for found in entry.prices[:: 1 if train else 5]:
            model: nn.Module = net
            if not found.candidate.is_kept:
                factors = FAMILIES[found.candidate.family].factorize(conv.weight, entry.site.spec, found.candidate.rank)
                layer = from_factors(factors, bias=torch.zeros(conv.out_channels), padding_mode=conv.padding_mode)
                for part in layer.convs:
                    part.weight.requires_grad_(conv.weight.requires_grad)
                model = replace(net, {entry.site.name: layer})
            cost = count(model, example()).total
            others = [other.original for other in prices.sites if other is not entry]
            assert cost.macs == prices.rest.macs + found.macs + sum(other.macs for other in others)
            parameters = prices.rest.parameters + found.parameters + sum(other.parameters for other in others)
            assert cost.parameters == parameters


@pytest.mark.filterwarnings(EVEN)
def test_the_original_is_the_sum_of_the_rest_and_the_sites(net: Net) -> None:
    prices, cost = priced(net), count(net, example()).total
    assert (prices.original.macs, prices.original.parameters) == (cost.macs, cost.parameters)
    assert prices.original.measured_s is None
    assert not prices.is_measured


def test_a_predicted_time_is_the_sum_over_the_chain_and_the_calls() -> None:
    conv = nn.Conv2d(8, 8, 1)
    (entry,) = priced(nn.Sequential(nn.Conv2d(3, 8, 3), conv)).sites[1:]
    # 8·8 weights on 14·14 places in 2 images: 25,088 MACs against 4·(64 + 2·(8 + 8)·196) bytes at the same rate.
    assert entry.original.predicted_s == pytest.approx(max(25_088, 4 * (64 + 2 * 16 * 196)) * 1e-9)


class Clock:
    """A timer that answers with the MACs of a layer, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[int, ...]]] = []

    def __call__(self, module: nn.Module, x: Tensor) -> float:
        assert not any(part.training for part in module.modules())
        self.asked.append((str(module), tuple(x.shape)))
        with torch.no_grad():
            return count(module, x).total.macs * 1e-9


@pytest.mark.filterwarnings(EVEN)
def test_measured_times_come_from_the_timer_and_the_rest_is_what_is_left(net: Net) -> None:
    prices = priced(net.train(), Clock())
    assert net.training
    for entry in prices.sites:
        for found in entry.prices:
            assert found.measured_s == pytest.approx(found.macs * 1e-9)
    assert prices.rest.measured_s == pytest.approx(prices.rest.macs * 1e-9)
    assert prices.original.measured_s == pytest.approx(count(net, example()).total.macs * 1e-9)


def test_equal_chains_are_timed_once() -> None:
    clock = Clock()
    layers = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)]
    prices = price(
        nn.Sequential(*layers),
        trace(nn.Sequential(*layers), torch.zeros(1, 8, 6, 6)),
        example=torch.zeros(1, 8, 6, 6),
        timer=clock,
        machine=MACHINE,
    )
    assert len(clock.asked) == len(prices.sites[0].prices) + 1
    assert len(set(clock.asked)) == len(clock.asked)


def test_layers_are_timed_in_the_model_s_dtype_and_layout() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)).to(torch.bfloat16, memory_format=torch.channels_last)
    seen = []

    def timer(module: nn.Module, x: Tensor) -> float:
        seen.append((x.dtype, x.is_contiguous(memory_format=torch.channels_last)))
        y: Tensor = module(x)
        assert y.dtype == torch.bfloat16
        return 1.0

    x = torch.zeros(1, 8, 9, 9, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    price(model, trace(model, x), example=x, timer=timer, machine=MACHINE)
    assert set(seen) == {(torch.bfloat16, True)}


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor, *, y: Tensor) -> Tensor:
        return self.conv(x) + y


def test_an_example_of_named_arguments_is_timed_as_a_whole() -> None:
    model, inputs = Two(), {"x": torch.zeros(1, 8, 6, 6), "y": torch.zeros(1)}
    whole = []

    def timer(module: nn.Module, x: Tensor) -> float:
        y: Tensor = module(x)
        whole.append(tuple(y.shape))
        return 1.0

    price(model, trace(model, inputs), example=inputs, timer=timer, machine=MACHINE)
    assert whole[-1] == (1, 8, 4, 4)


def test_a_timer_needs_an_example() -> None:
    model = nn.Conv2d(3, 8, 3)
    with pytest.raises(ModelError, match="example"):
        price(model, trace(model, example()), timer=lambda _module, _x: 1.0, machine=MACHINE)


@pytest.mark.filterwarnings(EVEN)
def test_without_data_the_error_is_that_of_the_weight_and_the_prices_say_so(net: Net) -> None:
    prices = priced(net)
    for entry in prices.sites:
        weight = conv_at(net, entry.site.name).weight.detach()
        assert entry.sensitivity == 1.0
        assert entry.original.error == 0.0
        for found in entry.prices[1:]:
            factors = FAMILIES[found.candidate.family].factorize(weight, entry.site.spec, found.candidate.rank)
            gone = (factors.dense() - weight).square().sum() / weight.square().sum()
            assert found.error == pytest.approx(float(gone), abs=1e-6)
    assert prices.samples == 0
    assert "weights alone" in prices.notes[0]


def batches(count: int = 4, n: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 3, 16, 16, generator=generator).cumsum(2).cumsum(3) / 8 for _ in range(count)]


@pytest.mark.filterwarnings(EVEN)
def test_with_data_the_error_is_what_fitting_leaves_and_never_more_than_without(net: Net) -> None:
    data = batches()
    sites = trace(net, example())
    prices = price(net, sites, data=data, machine=MACHINE)
    assert (prices.samples, prices.notes) == (64, ())
    (stem,) = [entry for entry in prices.sites if entry.site.name == "stem"]
    with torch.no_grad():
        x = torch.cat(data)
        y = F.conv2d(x, net.stem.weight, stride=2, padding=1)
        for found in stem.prices[1:]:
            factors = FAMILIES[found.candidate.family].factorize(net.stem.weight, stem.site.spec, found.candidate.rank)
            plain = F.conv2d(x, factors.dense(), stride=2, padding=1) - y
            plain_error = (plain - plain.mean((0, 2, 3), keepdim=True)).square().sum()
            energy = (y - y.mean((0, 2, 3), keepdim=True)).square().sum()
            assert found.error <= float(plain_error / energy) * (1 + 1e-4) + 1e-9


@pytest.mark.filterwarnings(EVEN)
def test_sensitivities_are_numbers_above_zero(net: Net) -> None:
    prices = price(net, trace(net, example()), data=batches(), machine=MACHINE)
    assert all(math.isfinite(entry.sensitivity) and entry.sensitivity > 0 for entry in prices.sites)


@pytest.mark.filterwarnings(EVEN)
def test_groups_of_sites_that_fit_into_memory_give_the_same_prices(net: Net) -> None:
    sites, data = trace(net, example()), batches()
    at_once = price(net, sites, data=data, machine=MACHINE)
    one_by_one = price(net, sites, data=data, machine=MACHINE, effort=Effort(moment_bytes=1))
    assert at_once == one_by_one


@pytest.mark.filterwarnings(EVEN)
def test_only_as_much_data_is_used_as_the_effort_allows(net: Net) -> None:
    prices = price(net, trace(net, example()), data=batches(), machine=MACHINE, effort=Effort(samples=20, outside=1))
    assert prices.samples == 32


@pytest.mark.filterwarnings(EVEN)
def test_pricing_leaves_the_model_as_it_was(net: Net) -> None:
    net.train()
    net.norm.eval()
    before = copy.deepcopy(net.state_dict())
    price(net, trace(net, example()), example=example(), timer=Clock(), data=batches(2), machine=MACHINE)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert (net.training, net.norm.training, net.stem.training) == (True, False, True)
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.filterwarnings(EVEN)
def test_only_what_is_faster_is_priced_where_that_is_asked_and_the_fastest_where_nothing_is(net: Net) -> None:
    def clock(layer: nn.Module, _: Tensor) -> float:
        return 1.0 if isinstance(layer, nn.Conv2d | Net) else {"spatial": 0.5, "tucker": 1.0}.get(layer.family, 1.5)  # type: ignore[call-overload]

    def families(effort: Effort) -> dict[str, set[str]]:
        sites = trace(net, example())
        prices = price(net, sites, example=example(), timer=clock, machine=MACHINE, effort=effort)
        return {entry.site.name: {each.candidate.family for each in entry.prices} for entry in prices.sites}

    everything, faster = families(Effort()), families(Effort(only_faster=True))
    assert everything["twice"] > {"keep", "spatial", "tucker", "depthwise"}
    assert faster["twice"] == {"keep", "spatial"}
    assert everything["pointwise"] == faster["pointwise"] == {"keep", "channel"}


@pytest.mark.filterwarnings(EVEN)
def test_progress_counts_every_step_to_the_end(net: Net) -> None:
    steps: list[tuple[int, int]] = []
    sites = trace(net, example())
    price(net, sites, example=example(), timer=Clock(), machine=MACHINE, progress=lambda *step: steps.append(step))
    assert steps == [(done, 8) for done in range(1, 9)]


def test_weights_that_are_not_finite_are_refused_by_name(net: Net) -> None:
    with torch.no_grad():
        net.grouped.weight[0, 0, 0, 0] = math.nan
    with pytest.raises(ModelError, match=r"grouped\.weight"):
        priced(net)


def test_statistics_that_are_nan_are_refused_by_name(net: Net) -> None:
    net.norm.running_var[0] = math.nan  # type: ignore[index]
    with pytest.raises(ModelError, match=r"norm\.running_var"):
        priced(net)


@pytest.mark.filterwarnings(EVEN)
def test_data_that_is_none_or_can_be_read_once_is_refused(net: Net) -> None:
    sites = trace(net, example())
    with pytest.raises(DataError, match="no batches"):
        price(net, sites, data=[], machine=MACHINE)
    with pytest.raises(DataError, match="read once"):
        price(net, sites, data=iter(batches(1)), machine=MACHINE)


def test_a_model_without_convolutions_has_prices_of_the_rest_alone() -> None:
    model = nn.Linear(3, 2)
    prices = price(model, trace(model, torch.zeros(1, 3)), example=torch.zeros(1, 3), timer=Clock(), machine=MACHINE)
    assert prices.sites == ()
    assert prices.original == prices.rest
    assert prices.rest.macs == 6


def test_prices_print_as_a_table_that_says_which_numbers_are_which() -> None:
    model = nn.Conv2d(8, 8, 3)
    text = str(price(model, trace(model, torch.zeros(1, 8, 6, 6)), machine=MACHINE))
    for word in ("counted", "predicted", "measured", "spatial", "keep"):
        assert word in text


def test_the_sensitivity_of_a_layer_whose_error_is_the_output_s_is_one() -> None:
    model = nn.Conv2d(3, 16, 3, bias=False)
    x = batches()
    prices = price(model, trace(model, example()), data=x, machine=MACHINE)
    (entry,) = prices.sites
    # The output is the layer's own, but for its mean, which the layer's error leaves out.
    with torch.no_grad():
        y = torch.cat([model(each) for each in x])
    centred = (y - y.mean((0, 2, 3), keepdim=True)).square().sum() / y.square().sum()
    assert entry.sensitivity == pytest.approx(float(centred), rel=0.05)


def test_a_layer_without_a_choice_is_kept_at_no_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 16, 3))
    prices = price(model, trace(model, example()), data=batches(1), machine=MACHINE)
    assert [(p.candidate.label, p.error) for p in prices.sites[0].prices] == [("keep", 0.0)]
    assert len(prices.sites[1].prices) > 1


def test_a_reference_network_is_priced_whole() -> None:
    model = models.resnet_small(width=8, blocks=1)
    prices = price(model, trace(model, torch.zeros(1, 1, 32, 32)), machine=MACHINE)
    assert prices.original.macs == count(model, torch.zeros(1, 1, 32, 32)).total.macs
    assert len(prices.sites) == sum(isinstance(module, nn.Conv2d) for module in model.modules())
