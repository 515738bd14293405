"""Forwards written down without data. In: modules with habits. Out: programs that agree, or a refusal that says why."""

import os

import pytest
import torch
import torch.nn.functional as F
from small_networks import build, mobile
from torch import Tensor, nn

from separable.engine import compile
from separable.engine.lowered import Call
from separable.engine.record import record
from separable.errors import ModelError
from separable.runtime.network import Network


class Habit(nn.Module):
    """A convolution before and after what a test is about."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.register_buffer("calls", torch.zeros(1))
        self.seen: Tensor | None = None

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.two(self.between(self.one(x)))
        return y


def agrees(model: nn.Module, *inputs: Tensor) -> bool:
    """Whether the program gives what the model gives, tree and all, twice."""
    program = compile(model, inputs, threads=1, measure=False)
    for _ in range(2):
        with torch.no_grad():
            expected = model(*inputs)
        torch.testing.assert_close(program(*inputs), expected, rtol=1e-4, atol=1e-5)
    return True


def test_a_part_changed_in_place_changes_the_whole() -> None:
    class Painted(Habit):
        def between(self, x: Tensor) -> Tensor:
            y = x + 1
            y[:, :3].mul_(5)
            return F.relu(y)

    assert agrees(build(Painted), torch.randn(1, 3, 6, 6))


def test_a_view_changed_in_place_stays_native_unless_an_older_name_is_read() -> None:
    class Viewed(Habit):
        def between(self, x: Tensor) -> Tensor:
            return x.view(x.shape).relu_()

    class ReadAgain(Habit):
        def between(self, x: Tensor) -> Tensor:
            return x.view(x.shape).relu_() * 2 + x

    x = torch.randn(2, 3, 6, 6)
    for habit, is_left in ((Viewed, False), (ReadAgain, True)):
        model = build(habit)
        assert agrees(model, x)
        assert bool(compile(model, x, measure=False).prepare(x).lowered.calls) == is_left


def test_a_new_tensor_that_is_filled_is_no_constant() -> None:
    class Filled(Habit):
        def between(self, x: Tensor) -> Tensor:
            y = torch.zeros(x.shape)
            y[:, 2:] = x[:, 2:]
            return y

    model = build(Filled)
    assert agrees(model, torch.randn(1, 3, 6, 6))
    program = compile(model, torch.randn(1, 3, 6, 6), measure=False)
    with torch.no_grad():
        other = torch.randn(1, 3, 6, 6)
        torch.testing.assert_close(program(other), model(other), rtol=1e-4, atol=1e-5)


def test_constants_computed_in_the_forward_are_folded() -> None:
    class Scaled(Habit):
        def between(self, x: Tensor) -> Tensor:
            return x * torch.linspace(1, 2, 8, device=x.device).reshape(1, 8, 1, 1).sqrt()

    model, x = build(Scaled), torch.randn(1, 3, 6, 6)
    assert agrees(model, x)
    assert "linspace" not in str(record(model, (x,)).graph)


def test_random_numbers_stay_random() -> None:
    class Noisy(Habit):
        def between(self, x: Tensor) -> Tensor:
            return x + torch.rand(1)

    program = compile(build(Noisy), torch.randn(1, 3, 6, 6), measure=False)
    x = torch.randn(1, 3, 6, 6)
    assert not torch.equal(program(x), program(x))


def test_an_old_value_is_kept_for_who_reads_it_after_a_change_in_place() -> None:
    class Both(Habit):
        def between(self, x: Tensor) -> Tensor:
            y = x.cumsum(1)
            z = y * 2
            y.erf_()
            return y + z + x

    assert agrees(build(Both), torch.randn(2, 3, 6, 6))


def test_a_forward_that_changes_the_model_is_refused() -> None:
    class Counting(Habit):
        def between(self, x: Tensor) -> Tensor:
            self.calls.add_(1)
            return x

    model = build(Counting)
    with pytest.raises(ModelError, match="changes calls"):
        compile(model, torch.randn(1, 3, 6, 6))
    assert model.calls.item() == 0


def test_a_forward_that_keeps_a_tensor_is_refused_and_leaves_the_model_as_it_was() -> None:
    class Keeping(Habit):
        def between(self, x: Tensor) -> Tensor:
            self.seen = x
            return x

    model = build(Keeping)
    with pytest.raises(ModelError, match="keeps a tensor in seen"):
        compile(model, torch.randn(1, 3, 6, 6))
    assert model.seen is None


@pytest.mark.parametrize("look", [lambda x: bool(x.sum() > 0), lambda x: x.detach().numpy().sum() > 0, Tensor.tolist])
def test_a_forward_that_looks_at_its_data_is_refused(look: object) -> None:
    class Looking(Habit):
        def between(self, x: Tensor) -> Tensor:
            return x if look(x) else -x  # type: ignore[operator]

    with pytest.raises(ModelError, match="does not depend on its data"):
        compile(build(Looking), torch.randn(1, 3, 6, 6))


def test_several_inputs_and_outputs_keep_their_form() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(5, 8, 1)

        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, dict[str, Tensor | int]]:
            x, y = self.one(a), self.two(b)
            return x + y, {"product": x * y, "given": b, "number": 3}

    assert agrees(build(Pair), torch.randn(2, 3, 5, 4), torch.randn(2, 5, 5, 4))


def test_what_is_left_to_pytorch_beside_a_network_does_not_cut_it() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.one(x)
            return self.two(F.relu(y)), y.cumsum(1)

    model, x = build(Beside), torch.randn(1, 3, 5, 4)
    assert agrees(model, x)
    steps = compile(model, x, measure=False).prepare(x).lowered.steps
    assert [type(step) for step in steps] == [Network, Call]


def test_channels_last_and_turned_tensors_can_be_seen_in_other_shapes() -> None:
    class Turned(Habit):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).permute(0, 2, 3, 1).flatten(1, 2)

    model, x = build(Turned), torch.randn(2, 3, 6, 6)
    assert agrees(model, x)
    assert agrees(model, x.to(memory_format=torch.channels_last))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_program_runs_in_a_forked_child() -> None:
    model, x = build(mobile), torch.randn(1, 3, 32, 32)
    program = compile(model, x, threads=2, measure=False)
    expected = program(x)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(program(x), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_writes_into_memory_of_its_own() -> None:
    model, x = build(mobile), torch.randn(1, 3, 32, 32)
    program = compile(model, x, threads=2, measure=False)
    program(x)
    (native,) = program.prepare(x).natives.values()
    before = native._maps.copy()
    child = os.fork()
    if child == 0:
        program(-x)
        os._exit(0 if (native._maps != before).any() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (native._maps == before).all()
