"""What separable.plan.rewrite promises: a new model as the plan says, that does whatever a PyTorch model does."""

import copy
import io
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from separable import models
from separable.cost import count
from separable.cost.machine import Machine
from separable.errors import ModelError, PlanError
from separable.graph import compare, trace
from separable.nn import FactorizedConv
from separable.plan import Plan, choose_plan, price, rewrite
from separable.spec import Budget

MACHINE = Machine(name="m", cores=1, threads=1, instruction_sets=(), fma_per_s=1e9, bytes_per_s=1e9)
X = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def planned(model: nn.Module) -> Plan:
    return choose_plan(price(model, trace(model, X), machine=MACHINE), Budget(macs=0.5))


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, Plan]:
    torch.manual_seed(0)
    model = models.resnet_small(width=8, blocks=1).eval()
    return model, planned(model)


def factorized(model: nn.Module) -> list[FactorizedConv]:
    return [module for module in model.modules() if isinstance(module, FactorizedConv)]


def test_the_result_costs_what_the_plan_says_and_the_original_is_untouched(small: tuple[nn.Module, Plan]) -> None:
    model, plan = small
    before = copy.deepcopy(model.state_dict())
    result = rewrite(model, plan)
    cost = count(result, X).total
    assert (cost.macs, cost.parameters) == (plan.after.macs, plan.after.parameters)
    assert cost.macs <= 0.5 * plan.before.macs
    changed = [choice for choice in plan.choices if not choice.candidate.is_kept]
    assert len(factorized(result)) == len(changed) > 0
    assert not factorized(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert 0 < compare(model, result, X).error < 1


def test_layers_have_the_weights_nearest_to_the_original_s(small: tuple[nn.Module, Plan]) -> None:
    model, plan = small
    result = rewrite(model, plan)
    for choice in plan.choices:
        layer, conv = result.get_submodule(choice.name), model.get_submodule(choice.name)
        assert isinstance(conv, nn.Conv2d)
        if isinstance(layer, FactorizedConv):
            weight = conv.weight.detach()
            gone = (layer.factors().dense() - weight).square().sum() / weight.square().sum()
            assert float(gone) == pytest.approx(choice.price.error, rel=1e-3)


def test_a_plan_that_keeps_everything_gives_an_equal_copy(small: tuple[nn.Module, Plan]) -> None:
    model, plan = small
    result = rewrite(model, replace(plan, choices=tuple(replace(c, price=c.original) for c in plan.choices)))
    assert result is not model
    assert torch.equal(result(X), model(X))


@pytest.mark.parametrize("train", [True, False])
def test_the_mode_of_every_module_is_kept(small: tuple[nn.Module, Plan], train: bool) -> None:
    model = copy.deepcopy(small[0]).train(train)
    result = rewrite(model, small[1])
    assert {module.training for module in result.modules()} == {train}


def test_the_result_trains(small: tuple[nn.Module, Plan]) -> None:
    result = rewrite(*small).train()
    optimizer = torch.optim.SGD(result.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(result(X), torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in result.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_frozen_weights_stay_frozen(small: tuple[nn.Module, Plan]) -> None:
    model = copy.deepcopy(small[0]).requires_grad_(False)
    assert not any(p.requires_grad for p in rewrite(model, small[1]).parameters())


def test_the_state_dict_is_saved_and_loaded(small: tuple[nn.Module, Plan]) -> None:
    result = rewrite(*small)
    buffer = io.BytesIO()
    torch.save(result.state_dict(), buffer)
    buffer.seek(0)
    torch.manual_seed(1)
    other = rewrite(models.resnet_small(width=8, blocks=1).eval(), small[1])
    assert not torch.equal(other(X), result(X))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(X), result(X))


def test_the_result_exports(small: tuple[nn.Module, Plan]) -> None:
    result = rewrite(*small)
    shapes = ({0: torch.export.Dim("n", min=2)},)
    exported = torch.export.export(result, (X,), dynamic_shapes=shapes).module()
    x = torch.randn(3, 1, 32, 32)
    torch.testing.assert_close(exported(x), result(x))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_result_compiles(small: tuple[nn.Module, Plan], backend: str) -> None:
    result = rewrite(*small)
    torch._dynamo.reset()
    compiled = torch.compile(result, backend=backend, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(X), result(X))


def test_channels_last_is_kept(small: tuple[nn.Module, Plan]) -> None:
    model = copy.deepcopy(small[0]).to(memory_format=torch.channels_last)
    result = rewrite(model, small[1])
    seen = []
    for layer in factorized(result):
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in layer.parameters() if p.dim() == 4)
        layer.register_forward_hook(lambda _m, _a, y: seen.append(y.is_contiguous(memory_format=torch.channels_last)))
    y = result(X.to(memory_format=torch.channels_last))
    assert seen
    assert all(seen)
    torch.testing.assert_close(y, rewrite(*small)(X), rtol=1e-3, atol=1e-3)


def test_autocast_runs_the_chain_in_the_lower_precision(small: tuple[nn.Module, Plan]) -> None:
    result = rewrite(*small)
    seen = []
    for layer in factorized(result):
        layer.register_forward_hook(lambda _m, _a, y: seen.append(y.dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = result(X)
    assert set(seen) == {torch.bfloat16}
    assert bool(y.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_is_kept(small: tuple[nn.Module, Plan], dtype: torch.dtype) -> None:
    result = rewrite(copy.deepcopy(small[0]).to(dtype), small[1])
    assert {p.dtype for p in result.parameters()} == {dtype}
    assert result(X.to(dtype)).dtype == dtype


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.a = self.b = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(nn.functional.max_pool2d(self.a(self.stem(x)), 2))


def test_a_layer_under_two_names_is_rewritten_under_both() -> None:
    model = Shared().eval()
    plan = planned(model)
    result = rewrite(model, plan)
    assert isinstance(result, Shared)
    assert isinstance(result.a, FactorizedConv)
    assert result.a is result.b
    assert count(result, X).total.macs == plan.after.macs
    assert count(result, X).total.parameters == plan.after.parameters


def test_a_plan_for_another_model_is_refused_and_the_layer_named(small: tuple[nn.Module, Plan]) -> None:
    _, plan = small
    first = plan.choices[0]
    with pytest.raises(PlanError, match=f"{first.name}: got a model without this layer"):
        rewrite(nn.Sequential(nn.Conv2d(1, 1, 1)), plan)
    with pytest.raises(PlanError, match=f"{first.name}: got 1→16 .* expected 1→8"):
        rewrite(models.resnet_small(width=16), plan)


def test_a_layer_of_another_shape_is_named_with_both_shapes() -> None:
    plan = planned(nn.Sequential(nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3, padding=1)))
    with pytest.raises(PlanError, match=r"1: got 16→16 5×5 .* expected 16→16 3×3"):
        rewrite(nn.Sequential(nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 5, padding=2)), plan)
    with pytest.raises(PlanError, match="1: got a Linear"):
        rewrite(nn.Sequential(nn.Conv2d(1, 16, 3), nn.Linear(16, 16)), plan)


def test_a_plan_is_not_applied_twice(small: tuple[nn.Module, Plan]) -> None:
    with pytest.raises(PlanError, match="FactorizedConv"):
        rewrite(rewrite(*small), small[1])


def test_a_layer_that_became_special_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3, padding=1))
    plan = planned(model)
    nn.utils.parametrizations.weight_norm(model[1])
    with pytest.raises(PlanError, match="parametrization"):
        rewrite(model, plan)


def test_weights_that_are_not_finite_are_refused_by_name(small: tuple[nn.Module, Plan]) -> None:
    model = copy.deepcopy(small[0])
    name, parameter = next((n, p) for n, p in model.named_parameters() if p.dim() == 4)
    with torch.no_grad():
        parameter.view(-1)[0] = math.inf
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        rewrite(model, small[1])


def test_a_model_without_numbers_is_refused(small: tuple[nn.Module, Plan]) -> None:
    with pytest.raises(ModelError, match="meta"):
        rewrite(copy.deepcopy(small[0]).to("meta"), small[1])
