"""In: a model and the operations that run in it. Out: the cost of each layer, and the operations not understood."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from separable.cost.formulas import Work, is_known, work_of
from separable.cost.values import Cost, LayerCost
from separable.errors import ModelError, SpecError
from separable.spec import ConvSpec, TensorSpec

# Never called themselves: what they hold belongs to the module that holds them.
CONTAINERS = (nn.ParameterList, nn.ParameterDict, nn.ModuleList, nn.ModuleDict, ParametrizationList)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass
class Running:
    """A module in the middle of its forward; ``labels`` numbers the functional operations of this call."""

    path: str
    module: nn.Module
    inputs: tuple[Any, ...]
    labels: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        kind = type(self.module).__name__
        return f"layer {self.path!r} ({kind})" if self.path else f"the model ({kind})"


@dataclass
class _Layer:
    module: str
    macs: dict[str, int] = field(default_factory=dict)
    specs: list[ConvSpec] = field(default_factory=list)
    activation_bytes: int = 0
    calls: int = 0
    batch: int = 0


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts each operation of a model while it is entered, and knows which module is running."""

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._unknown: dict[str, int] = {}
        self._modules = dict(model.named_modules())
        self._paths = {module: path for path, module in self._modules.items()}
        self._stack = [Running("", model, ())]
        self._broken: tuple[BaseException, Running] | None = None
        self._layers: dict[str, _Layer] = {}
        self._parameters: dict[str, list[nn.Parameter]] = {}
        for path, parameter in model.named_parameters():
            self._parameters.setdefault(self._owner(path), []).append(parameter)
        # Storages of parameters, of buffers and of what is made of them alone. Held: an address is not used again.
        self._state: dict[int, torch.UntypedStorage] = {}
        self._mark_state([*model.parameters(), *model.buffers()])

    @contextmanager
    def following(self) -> Iterator[None]:
        """Counts, and follows the calls of the model's modules by hooks that are gone afterwards."""
        with ExitStack() as hooks:
            for module in self._paths:
                before = module.register_forward_pre_hook(self._enter_module, with_kwargs=True, prepend=True)
                after = module.register_forward_hook(self._leave_module, always_call=True)
                hooks.callback(before.remove)
                hooks.callback(after.remove)
            with self:
                yield

    def broken_by(self, error: Exception) -> Running:
        """The innermost module that ``error`` came out of."""
        return self._broken[1] if self._broken and self._broken[0] is error else self._stack[0]

    @property
    def unknown(self) -> tuple[str, ...]:
        """The operations that are neither counted nor known to be free, and where they run."""
        return tuple(name if times == 1 else f"{name}, {times} times" for name, times in self._unknown.items())

    def layers(self) -> tuple[LayerCost, ...]:
        """In the order in which they first ran; layers that never ran come last."""
        for path in self._parameters:
            self._layers.setdefault(path, _Layer(path))
        return tuple(self._finished(name, layer) for name, layer in self._layers.items())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        if not isinstance(func, torch._ops.OpOverload):
            self._add_unknown(str(func))
            return func(*args, **kwargs)
        if not is_known(func):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            if _tensors((args, kwargs)):
                self._add_unknown(func._schema.name)
        result = func(*args, **kwargs)
        work = work_of(func, args, kwargs)
        if work is not None:
            self._check_dtypes(work)
        self._add(work, _tensors((args, kwargs)), _tensors(result))
        return result

    def _enter_module(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        path = self._paths[module]
        self._stack.append(Running(path, module, (*args, *kwargs.values())))
        if path in self._parameters:
            self._layers.setdefault(path, _Layer(path)).calls += 1

    def _leave_module(self, _module: nn.Module, _args: Any, _result: Any) -> None:
        left, error = self._stack.pop(), sys.exc_info()[1]
        if error and not (self._broken and self._broken[0] is error):
            self._broken = error, left

    def _add(self, work: Work | None, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        activations = [tensor for tensor in inputs if not self._is_state(tensor)]
        if inputs and not activations:
            self._mark_state(outputs)
        layer = self._layer_of(work)
        if layer is None:
            return
        if work is not None:
            self._add_work(layer, work)
        if work is not None or (activations and len(activations) < len(inputs)):
            # Outputs after the first are statistics for a backward pass.
            moved = {id(tensor): tensor for tensor in (*activations, *outputs[:1])}
            layer.activation_bytes += sum(tensor.numel() * tensor.element_size() for tensor in moved.values())

    def _layer_of(self, work: Work | None) -> _Layer | None:
        running = self._stack[-1]
        if running.path in self._parameters:
            return self._layers.setdefault(running.path, _Layer(running.path))
        if work is None:
            return None
        label = "linear" if self._kind(work) == "linear" else work.label
        number = running.labels[label] = running.labels.get(label, 0) + 1
        name = f"{running.path}:{label}" + (f"#{number}" if number > 1 else "")
        layer = self._layers.setdefault(name, _Layer(running.path))
        layer.calls += 1
        return layer

    def _add_work(self, layer: _Layer, work: Work) -> None:
        kind = self._kind(work)
        layer.macs[kind] = layer.macs.get(kind, 0) + work.macs
        layer.batch = layer.batch or work.batch
        if work.spec is not None:
            layer.specs.append(self._as_the_module_says(work.spec))

    def _kind(self, work: Work) -> str:
        is_linear = work.kind == "matmul" and any(map(self._is_state, work.operands))
        return "linear" if is_linear else work.kind

    def _as_the_module_says(self, spec: ConvSpec) -> ConvSpec:
        """The operation sees an input that its module has padded already; the module knows size and padding before."""
        module, inputs = self._stack[-1].module, self._stack[-1].inputs
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) or not inputs or not isinstance(inputs[0], Tensor):
            return spec
        try:
            said = ConvSpec(
                module.in_channels,
                module.out_channels,
                kernel=module.kernel_size,
                size=tuple(inputs[0].shape[-spec.dims :]),
                stride=module.stride,
                padding=module.padding,
                dilation=module.dilation,
                groups=module.groups,
            )
        except SpecError:
            return spec
        is_same = said.weight_shape == spec.weight_shape and said.size_out == spec.size_out
        return said if is_same else spec

    def _finished(self, name: str, layer: _Layer) -> LayerCost:
        parameters = self._parameters.get(name, [])
        kind = max(layer.macs, key=lambda k: layer.macs[k]) if layer.macs else "other"
        if not layer.macs and isinstance(self._modules[layer.module], NORMS):
            kind = "norm"
        cost = Cost(
            macs=sum(layer.macs.values()),
            parameters=sum(p.numel() for p in parameters if p.requires_grad),
            weight_bytes=sum(p.numel() * p.element_size() for p in parameters),
            activation_bytes=layer.activation_bytes,
        )
        return LayerCost(
            name=name,
            kind=kind,
            cost=cost,
            specs=tuple(layer.specs),
            calls=layer.calls,
            batch=layer.batch,
            module=layer.module,
        )

    def _owner(self, path: str) -> str:
        path = path.rpartition(".")[0]
        while path and isinstance(self._modules[path], CONTAINERS):
            path = path.rpartition(".")[0]
        return path

    def _check_dtypes(self, work: Work) -> None:
        x, *others = work.operands
        if any(other.dtype != x.dtype for other in others):
            raise ModelError(
                f"count: {self._stack[-1]}",
                given=" times ".join(map(described, work.operands)),
                expected="one dtype on both sides",
                remedy="Give an example of the dtype that the model computes in.",
            )

    def _add_unknown(self, operation: str) -> None:
        place = f"{operation} in {self._stack[-1].path!r}" if self._stack[-1].path else operation
        self._unknown[place] = self._unknown.get(place, 0) + 1

    def _mark_state(self, tensors: list[Tensor]) -> None:
        for tensor in filter(_has_storage, tensors):
            storage = tensor.untyped_storage()
            self._state[storage._cdata] = storage

    def _is_state(self, tensor: Tensor) -> bool:
        return _has_storage(tensor) and tensor.untyped_storage()._cdata in self._state


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _has_storage(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided


def described(value: object) -> str:
    """Dtype and shape of a tensor, the type of anything else."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return str(TensorSpec(shape=tuple(value.shape), dtype=str(value.dtype).removeprefix("torch.")))
