"""Batch norm folding: the folded model against the unfolded one in float64, and what must not be folded."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from separable import models
from separable.errors import ModelError
from separable.nn import DepthwiseSeparableConv2d, FactorizedConv, fold_batch_norm
from separable.spec import ConvSpec


def lived_in(model: nn.Module) -> nn.Module:
    """The model in float64 and evaluation mode, its batch norms as after some training."""
    generator = torch.Generator().manual_seed(0)
    for module in model.double().eval().modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
            if module.running_mean is not None:
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def check(model: nn.Module, x: Tensor, left: int) -> nn.Module:
    """Fold, and see that the function is the same, the original as before, and ``left`` batch norms remain."""
    model = lived_in(model)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model(x)
        folded = fold_batch_norm(model)
        torch.testing.assert_close(folded(x), expected, rtol=1e-9, atol=1e-9)
    assert norms(folded) == left
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    return folded


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("mobilenet_v1", {}, 4_221_032),
        ("mobilenet_v2", {}, 3_487_816),
        ("mobilenet_v2", {"width": 1.4}, 6_084_808),
        ("resnet50", {}, 25_530_472),
        ("resnet18", {}, 11_684_712),
    ],
)
def test_the_folded_networks_have_exactly_the_known_parameters(
    name: str, options: dict[str, float], parameters: int
) -> None:
    with torch.device("meta"):
        model = models.build(name, **options).eval()
    folded = fold_batch_norm(model)
    assert norms(folded) == 0
    assert sum(parameter.numel() for parameter in folded.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "options", "resolution"),
    [
        ("mobilenet_v1", {"width": 0.25}, 64),
        ("mobilenet_v2", {"width": 0.35}, 64),
        ("resnet18", {}, 64),
        ("resnet50", {}, 64),
        ("resnet_small", {}, 32),
    ],
)
def test_the_folded_networks_compute_the_same(name: str, options: dict[str, object], resolution: int) -> None:
    check(models.build(name, **options), models.example(name, resolution=resolution).double(), left=0)


@pytest.mark.parametrize(
    ("layer", "norm", "x"),
    [
        (nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), (2, 3, 7)),
        (nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6, affine=False), (2, 4, 7, 5)),
        (nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4, eps=0.1), (2, 2, 5, 4, 3)),
        (nn.ConvTranspose1d(3, 4, 3), nn.BatchNorm1d(4), (2, 3, 7)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), (2, 4, 5, 4)),
        (DepthwiseSeparableConv2d(3, 4, 3, norm=nn.BatchNorm2d), nn.ReLU(), (2, 3, 7, 5)),
        (
            FactorizedConv(
                ConvSpec(3, 4, kernel=3, size=7),
                [ConvSpec(3, 2, kernel=(3, 1), size=7), ConvSpec(2, 4, kernel=(1, 3), size=(5, 7))],
                family="spatial",
                rank=(2,),
                bias=False,
            ),
            nn.BatchNorm2d(4),
            (2, 3, 7, 7),
        ),
    ],
)
def test_every_kind_of_layer_takes_its_norm_in(layer: nn.Module, norm: nn.Module, x: tuple[int, ...]) -> None:
    check(nn.Sequential(layer, norm), noise(*x), left=0)


def test_a_frozen_weight_stays_frozen_and_keeps_its_dtype() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval().to(torch.bfloat16).requires_grad_(False)
    folded = fold_batch_norm(model)
    assert [(p.dtype, p.requires_grad) for p in folded.parameters()] == [(torch.bfloat16, False)] * 2


@pytest.mark.parametrize(
    "flatten",
    [nn.Flatten(), lambda x: x.flatten(1), lambda x: torch.flatten(x, 1), lambda x: x.view(x.size(0), -1)],
)
def test_a_norm_after_a_linear_layer_is_folded_behind_a_flattening(flatten: Callable[[Tensor], Tensor]) -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flatten = flatten
            first, second = nn.Linear(12, 5), nn.Linear(5, 4)
            self.layers = nn.Sequential(first, nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(), second, nn.BatchNorm1d(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(self.flatten(x))

    check(Head(), noise(2, 3, 4), left=0)


def test_a_norm_over_the_middle_axis_of_a_linear_layers_output_stays() -> None:
    check(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), noise(2, 4, 6), left=1)


class Wired(nn.Module):
    """Two convolutions, two batch norms and a forward that says how they are wired."""

    def __init__(self, wiring: Callable[["Wired", Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.conv2, self.norm2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.wiring = wiring

    def forward(self, x: Tensor) -> Tensor:
        return self.wiring(self, x)


def also_read(m: Wired, x: Tensor) -> Tensor:
    y = m.conv(x)
    return m.norm(y) + m.norm2(m.conv2(y))


def conv_shared(m: Wired, x: Tensor) -> Tensor:
    return m.norm(m.conv(x)) + m.norm2(m.conv2(m.conv(x)))


def norm_shared(m: Wired, x: Tensor) -> Tensor:
    return m.norm(m.norm(m.conv(x))) + m.norm2(m.conv2(x))


def weight_read(m: Wired, x: Tensor) -> Tensor:
    return m.norm(m.conv(x)) + m.norm2(m.conv2(x)) + F.conv2d(x, 2 * m.conv.weight, padding=1)


def statistics_read(m: Wired, x: Tensor) -> Tensor:
    return m.norm(m.conv(x)) + m.norm2(m.conv2(x)) + m.norm.running_mean.sum()


def something_between(m: Wired, x: Tensor) -> Tensor:
    return m.norm(m.conv(x) + 1) + m.norm2(m.conv2(x))


@pytest.mark.parametrize(
    "wiring", [also_read, conv_shared, norm_shared, weight_read, statistics_read, something_between]
)
def test_a_pair_that_is_not_only_a_pair_stays_and_the_other_is_folded(
    wiring: Callable[[Wired, Tensor], Tensor],
) -> None:
    folded = check(Wired(wiring), noise(2, 3, 6, 5), left=1)
    assert isinstance(folded.norm, nn.BatchNorm2d)
    assert isinstance(folded.norm2, nn.Identity)


def in_a_row(m: Wired, x: Tensor) -> Tensor:
    return m.norm2(m.conv2(m.norm(m.conv(x))))


def hooked(m: Wired) -> None:
    m.conv.register_forward_hook(lambda _module, _args, y: 2 * y)


def norm_hooked(m: Wired) -> None:
    m.norm.register_forward_pre_hook(lambda _module, args: (2 * args[0],))


def tied(m: Wired) -> None:
    m.aside = nn.Conv2d(3, 3, 3)
    m.aside.weight = m.conv.weight


def reparametrized(m: Wired) -> None:
    weight_norm(m.conv)


def without_statistics(m: Wired) -> None:
    m.norm = nn.BatchNorm2d(3, track_running_stats=False)


def own_forward(m: Wired) -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    m.conv = Doubled(3, 3, 3)


def patched_forward(m: Wired) -> None:
    plain = m.conv.forward
    m.conv.forward = lambda x: 2 * plain(x)


@pytest.mark.parametrize(
    "change", [hooked, norm_hooked, tied, reparametrized, without_statistics, own_forward, patched_forward]
)
def test_a_layer_that_does_more_than_meets_the_eye_stays(change: Callable[[Wired], None]) -> None:
    model = Wired(in_a_row)
    change(model)
    folded = check(model, noise(2, 3, 6, 5), left=1)
    assert isinstance(folded.norm, nn.BatchNorm2d)


def test_a_pair_known_by_two_names_is_folded_under_both() -> None:
    model = Wired(in_a_row)
    model.again = nn.ModuleList([model.norm, model.conv])
    folded = check(model, noise(2, 3, 6, 5), left=0)
    assert folded.again[1] is folded.conv
    assert folded.again[0] is folded.norm


def test_a_batch_norm_in_training_mode_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Call model.eval\(\) first"):
        fold_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))


def test_a_forward_that_branches_on_data_is_refused() -> None:
    def branching(m: Wired, x: Tensor) -> Tensor:
        return in_a_row(m, x) if x.sum() > 0 else x

    with pytest.raises(ModelError, match=r"cannot trace.*one by one"):
        fold_batch_norm(Wired(branching).eval())


@pytest.mark.parametrize("model", [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(3).eval(), nn.ReLU()], ids=str)
def test_a_model_without_a_pair_comes_back_as_a_copy(model: nn.Module) -> None:
    folded = fold_batch_norm(model)
    assert folded is not model
    assert type(folded) is type(model)
