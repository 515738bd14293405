"""``torch.compile`` on the engine. In: models with state, gradients and shapes that change. Out: what PyTorch gives."""

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points

import pytest
import torch
from small_networks import build, mobile
from torch import Tensor, nn

from separable.engine import torch_backend
from separable.errors import SeparableWarning

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing compiled, nothing said yet."""
    monkeypatch.setattr(torch_backend, "_said", set())
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(model: nn.Module, **options: bool) -> Callable[..., Tensor]:
    return torch.compile(model, backend=torch_backend.compile, **options)  # type: ignore[call-overload, no-any-return]


def agree(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class Stateful(nn.Module):
    """A convolution beside a counter and the last output, which it changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("last", torch.zeros(1, 4, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y: Tensor = self.one(x)
        result = y * self.calls + self.last
        self.last.copy_(y)
        return result


def normed() -> nn.Module:
    """In training mode, where a forward changes the statistics."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train()


def test_it_runs_natively_and_follows_shapes_and_weights() -> None:
    model = build(mobile)
    fast = compiled(model)
    with torch.no_grad():
        for shape in ((2, 3, 32, 32), (1, 3, 32, 32), (3, 3, 40, 32)):
            x = torch.randn(shape)
            agree(fast(x), model(x))
        model[-1].weight.mul_(2)
        agree(fast(x), model(x))


def test_dynamic_shapes_are_compiled_one_by_one() -> None:
    model = build(mobile)
    fast = compiled(model, dynamic=True)
    with torch.no_grad():
        for shape in ((2, 3, 32, 32), (5, 3, 48, 32), (2, 3, 32, 32)):
            x = torch.randn(shape)
            agree(fast(x), model(x))


def test_where_gradients_are_wanted_pytorch_runs_and_says_so_once() -> None:
    model, x = build(mobile), torch.randn(1, 3, 32, 32)
    fast = compiled(model)
    with pytest.warns(SeparableWarning, match="PyTorch runs the graph"):
        fast(x).sum().backward()
    assert model[-1].weight.grad is not None
    fast(x)


@pytest.mark.parametrize(("make", "state"), [(Stateful, "last"), (normed, "1.running_var")])
def test_a_graph_that_changes_a_buffer_is_handed_back_and_says_so_once(
    make: Callable[[], nn.Module], state: str
) -> None:
    model = make()
    plain = copy.deepcopy(model)
    fast, inputs = compiled(model), [torch.randn(1, 3, 8, 8) for _ in range(3)]
    with torch.no_grad():
        with pytest.warns(SeparableWarning, match="PyTorch runs this graph.*changes a tensor") as said:
            agree(fast(inputs[0]), plain(inputs[0]))
        assert len([each for each in said if each.category is SeparableWarning]) == 1
        for x in inputs[1:]:
            agree(fast(x), plain(x))
    agree(model.state_dict()[state], plain.state_dict()[state])


def test_an_input_that_is_changed_in_place_is_changed_for_the_caller() -> None:
    class Doubling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.one(x.mul_(2))
            return y

    model, x = Doubling(), torch.ones(1, 3, 8, 8)
    with torch.no_grad():
        agree(compiled(model)(x), model.one(torch.full((1, 3, 8, 8), 2.0)))
    assert x.eq(2).all()


BY_NAME = """
import sys, torch
assert "separable" not in sys.modules
model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
x = torch.randn(1, 3, 8, 8)
with torch.no_grad():
    torch.testing.assert_close(torch.compile(model, backend="separable")(x), model(x), rtol=1e-4, atol=1e-5)
assert "separable.engine.torch_backend" in sys.modules
"""


def test_it_is_found_by_name_without_an_import_and_the_interpreter_ends() -> None:
    found = {point.name: point for point in entry_points(group="torch_dynamo_backends")}
    if "separable" not in found:
        pytest.skip("needs the package to be installed")
    assert found["separable"].load() is torch_backend.compile
    subprocess.run([sys.executable, "-W", "ignore", "-c", BY_NAME], check=True, timeout=240)


def test_what_is_no_graph_of_tensors_alone_runs_too() -> None:
    model = build(mobile)

    def function(x: Tensor, scale: float) -> Tensor:
        y: Tensor = model(x)
        return y * scale

    fast = torch.compile(function, backend=torch_backend.compile)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad(), warnings.catch_warnings():
        for scale in (1.0, 2.5, 3.5):
            agree(fast(x, scale), function(x, scale))
