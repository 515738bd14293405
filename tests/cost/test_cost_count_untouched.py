"""In: models that could be changed, or would be too large to run. Out: that counting computes and changes nothing."""

import gc
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from separable.cost import count
from separable.errors import ModelError


class Leaky(nn.Module):
    """Keeps, caches, counts and changes whatever a module can, then runs ``end``."""

    def __init__(self, end: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout()
        self.register_buffer("seen", torch.zeros(()))
        self.kept: list[Tensor] = []
        self.by_name: dict[str, Tensor] = {}
        self.scale = torch.ones(3, 1, 1)
        self.calls = 0
        self.end = end

    def forward(self, x: Tensor) -> Any:
        x = self.drop(self.norm(self.conv(x.mul_(2))))
        self.seen += 1
        self.seen = self.seen * 2
        self.scale.mul_(3)
        self.kept.append(x)
        self.by_name["x"] = x
        self.cache = x
        self.calls += 1
        del self.drop
        return self.end(x)


def state(model: nn.Module) -> list[Any]:
    """Every attribute of every module, tensors by identity and value."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return id(value), type(value), value.requires_grad, value.detach().flatten().tolist()
        if isinstance(value, dict | OrderedDict):
            return {key: plain(entry) for key, entry in value.items()}
        return [plain(entry) for entry in value] if isinstance(value, list) else value

    return [(name, plain(vars(module))) for name, module in model.named_modules()]


def fails(_x: Tensor) -> Any:
    raise ValueError("no")


ENDS = {"nothing": lambda x: x, "a branch on values": lambda x: x if x.sum() > 0 else -x, "an error": fails}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("is_training", [True, False])
def test_the_model_and_the_example_stay_as_they_are(end: str, is_training: bool) -> None:
    model = Leaky(ENDS[end]).train(is_training)
    model.norm.eval()
    hook = model.conv.register_forward_hook(lambda *_: None)
    x = torch.rand(2, 3, 5, 5)
    before, x_before, generator = state(model), x.clone(), torch.get_rng_state()
    if end == "an error":
        with pytest.raises(ModelError):
            count(model, x)
    else:
        count(model, x)
    assert state(model) == before
    assert torch.equal(x, x_before)
    assert torch.equal(torch.get_rng_state(), generator)
    hook.remove()
    assert not model.conv._forward_hooks


def test_batch_norm_in_training_mode_is_counted_as_it_infers_and_keeps_its_statistics() -> None:
    # One value a channel: in training mode PyTorch refuses to take its variance.
    norm = nn.BatchNorm2d(3).train()
    assert count(norm, torch.rand(1, 3, 1, 1)).total.parameters == 6
    assert norm.training
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.zeros(3))


def test_a_model_counted_once_runs_and_trains_as_before() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2))
    x = torch.rand(2, 3, 5, 5)
    count(model, x)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_settings_of_pytorch_stay_as_they_are() -> None:
    before = torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    count(nn.Linear(2, 2), torch.rand(1, 2))
    with pytest.raises(ModelError):
        count(nn.Linear(2, 2), torch.rand(1, 3))
    after = torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    assert after == before


def test_counting_does_no_arithmetic() -> None:
    # 4.8 TB of input and 10¹⁵ MACs: had anything been computed, this test would not end.
    cost = count(nn.Conv2d(3, 64, 3, padding=1), torch.empty(1, 3, 632_456, 632_456, device="meta"))
    assert cost.total.macs == 27 * 64 * 632_456**2


def test_counting_copies_no_weights() -> None:
    # One stored number, seen as a weight of 4 TiB.
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(torch.zeros(()).expand(2**20, 2**20))
    assert count(layer, torch.empty(1, 2**20)).total.macs == 2**40


def test_nothing_of_a_count_stays_in_memory() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), torch.rand(1, 3, 5, 5)

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(entry), Tensor) for entry in gc.get_objects())

    count(model, x)
    before = tensors()
    for _ in range(3):
        count(model, x)
    assert tensors() == before
