"""A model as native programs. In: a PyTorch model and an example. Out: a ``Program`` that is called like the model."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from separable.engine.lower import Call, Lowered, arguments_of, lower
from separable.engine.native import NativeNetwork
from separable.engine.network import Network
from separable.engine.tuning import Tuner
from separable.errors import ModelError
from separable.kernels.isa import Isa, host

Array = Tensor | NDArray[np.float32]


def compile(  # noqa: A001 - the word that torch uses for this verb
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    *,
    threads: int | None = None,
    level: str | None = None,
    measure: bool = True,
) -> Program:
    """The model as native code for this processor, for the example's shape now and for others when they come.

    ``threads``: the most that a call uses, PyTorch's own number by default. ``level``: an instruction set instead of the
    best one. ``measure``: tries a few tiles a layer, once a machine; without it a cost model decides.

    Raises ``ModelError`` for a model in training mode, and where ``torch.export`` cannot follow the model.
    """
    if any(module.training for module in model.modules()):
        raise ModelError(
            "separable.compile",
            given="a model in training mode",
            expected="a model that infers",
            remedy="Call model.eval() first; train in PyTorch, compile afterwards.",
        )
    program = Program(model, host(level), threads or torch.get_num_threads(), measure=measure)
    program.prepare(*(example if isinstance(example, tuple) else (example,)))
    return program


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What one forward does for inputs of one shape."""

    lowered: Lowered
    natives: Mapping[int, NativeNetwork]


class Program:
    """A compiled model: call it with tensors or NumPy arrays, get tensors. Batch and image size may change."""

    def __init__(self, model: nn.Module, isa: Isa, threads: int, *, measure: bool = True) -> None:
        self.model, self.isa, self.threads = model, isa, threads
        self._tuner = Tuner(isa, threads, is_measuring=measure)
        self._plans: dict[tuple[Any, ...], Plan] = {}
        self._preparing = threading.Lock()

    def prepare(self, *inputs: Array) -> Plan:
        """Compiles for inputs like these, unless that is done already."""
        tensors = [_tensor(i, x) for i, x in enumerate(inputs)]
        key = tuple((tuple(x.shape), x.dtype, _is_channels_last(x)) for x in tensors)
        plan = self._plans.get(key)
        if plan is None:
            with self._preparing:
                plan = self._plans.get(key) or self._plans.setdefault(key, self._plan(tensors))
        return plan

    def __call__(self, *inputs: Array) -> Any:
        """What the model would give. Raises ``ModelError`` for other dtypes, other devices, and for gradients."""
        plan = self.prepare(*inputs)
        lowered = plan.lowered
        environment: dict[str, Any] = dict(lowered.constants)
        environment.update(zip(lowered.inputs, map(_tensor, range(len(inputs)), inputs), strict=True))
        with torch.no_grad():
            for i, step in enumerate(lowered.steps):
                if isinstance(step, Call):
                    args, kwargs = arguments_of((step.args, step.kwargs), environment)
                    environment[step.name] = step.target(*args, **kwargs)
                else:
                    native = plan.natives[i]
                    environment.update(native([_ready(environment[name], name in native.last) for name in native.inputs]))
        return arguments_of(lowered.outputs, environment)

    def explain(self) -> str:
        """What runs natively and what is left to PyTorch, and why, for each shape that was seen."""
        return "\n\n".join(_explained(plan) for plan in self._plans.values())

    def _plan(self, tensors: list[Tensor]) -> Plan:
        try:
            exported = torch.export.export(self.model, tuple(tensors))
        except Exception as error:
            raise ModelError(
                "separable.compile",
                given=f"{type(self.model).__name__}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                expected="a model that torch.export can follow on this input",
                remedy="Data-dependent control flow has to leave the forward, or run through torch.compile.",
            ) from error
        signature = exported.graph_signature
        held = {**exported.state_dict, **exported.constants}
        constants: dict[str, Any] = {}
        for spec in signature.input_specs:
            if spec.target is not None and spec.target in held:
                constants[spec.arg.name] = held[spec.target]
        lowered = lower(exported.graph, constants, self.isa.lanes)
        lowered = _with_structure(lowered, exported.call_spec.out_spec)
        return self.link(lowered, dict(zip(lowered.inputs, tensors, strict=True)))

    def link(self, lowered: Lowered, inputs: Mapping[str, Tensor]) -> Plan:
        """Compiles the networks of what was lowered."""
        last = frozenset(name for name, x in inputs.items() if _is_channels_last(x))
        natives = {
            i: NativeNetwork(step, lowered.shapes, self.isa, self.threads, self._tuner, last & set(step.inputs))
            for i, step in enumerate(lowered.steps)
            if isinstance(step, Network)
        }
        return Plan(lowered=lowered, natives=natives)


def _with_structure(lowered: Lowered, spec: Any) -> Lowered:
    """Outputs in the form in which the model returns them."""
    leaves = pytree.tree_leaves(lowered.outputs, is_leaf=lambda x: not isinstance(x, list | tuple))
    return Lowered(**{**vars(lowered), "outputs": pytree.tree_unflatten(leaves, spec) if spec is not None else leaves})


def _tensor(position: int, x: Array) -> Tensor:
    where = f"input {position} of the program"
    if isinstance(x, np.ndarray):
        x = torch.from_numpy(x)
    if not isinstance(x, Tensor):
        raise ModelError(where, given=type(x).__name__, expected="a tensor or a NumPy array")
    if x.device.type != "cpu":
        raise ModelError(where, given=f"a tensor on {x.device}", expected="a tensor on the CPU")
    if x.dtype == torch.float64 or x.dtype in (torch.float16, torch.bfloat16):
        raise ModelError(where, given=str(x.dtype), expected="float32", remedy="Convert it with .float().")
    if x.requires_grad and torch.is_grad_enabled():
        raise ModelError(
            where, given="a tensor that wants gradients", expected="inference", remedy="Train in PyTorch; compile afterwards."
        )
    return x


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _ready(x: Tensor, is_last: bool) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if is_last else x.contiguous()


def _explained(plan: Plan) -> str:
    lowered = plan.lowered
    shapes = ", ".join(f"{name} {tuple(lowered.shapes.get(name, ()))}" for name in lowered.inputs)
    lines = [f"for {shapes}: {sum(isinstance(s, Network) for s in lowered.steps)} native, {len(lowered.calls)} in PyTorch"]
    for i, step in enumerate(lowered.steps):
        if isinstance(step, Call):
            lines.append(f"  PyTorch  {step.name}: {step.reason}")
        else:
            native = plan.natives[i]
            lines.append(f"  native   {len(step.nodes)} operators, {step.macs:,} MACs an image, {native.threads} threads, {native.isa}")
            lines += [f"             {node}" for node in step.nodes]
    return "\n".join(lines)
