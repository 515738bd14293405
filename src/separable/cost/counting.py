"""In: a convolution's shape, or a model and an example input. Out: its cost, counted without doing the arithmetic."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map_only

from separable.cost.borrow import borrowed
from separable.cost.record import Recorder, Running, described
from separable.cost.values import Cost, LayerCost, ModelCost
from separable.errors import ModelError, SeparableError
from separable.spec import ITEM_BYTES, ConvSpec

__all__ = ["Cost", "Example", "LayerCost", "ModelCost", "count"]

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@overload
def count(model: ConvSpec) -> Cost: ...
@overload
def count(model: nn.Module, example: Example) -> ModelCost: ...
def count(model: ConvSpec | nn.Module, example: Example | None = None) -> Cost | ModelCost:
    """The cost of one convolution on one float32 image (weights without bias), or of each layer of a model.

    ``example`` is what the forward takes: a tensor, a tuple of arguments or a dict of keyword arguments. Only shapes
    and dtypes matter, so tensors on the meta device do. The whole batch is counted, in evaluation mode. Nothing is
    computed and the model stays as it is; only where the forward needs values (it branches on them, or leaves PyTorch)
    is the model run for real, once, and ``notes`` says so. Raises ModelError naming the layer where the forward broke.

    A 5×5 convolution from 3 channels to 256, and the depthwise-separable pair in its place:

    >>> count(ConvSpec(3, 256, kernel=5, size=12)).macs
    1228800
    >>> depthwise = count(ConvSpec(3, 3, kernel=5, size=12, groups=3))
    >>> pointwise = count(ConvSpec(3, 256, kernel=1, size=8))
    >>> depthwise.macs, pointwise.macs, (depthwise + pointwise).macs
    (4800, 49152, 53952)

    In general the pair needs 1/c_out + 1/k² of the multiplications:

    >>> dense = count(ConvSpec(512, 512, kernel=3, size=14, padding=1))
    >>> depthwise = count(ConvSpec(512, 512, kernel=3, size=14, padding=1, groups=512))
    >>> pointwise = count(ConvSpec(512, 512, kernel=1, size=14))
    >>> dense.macs, (depthwise + pointwise).macs
    (462422016, 52283392)
    >>> dense.parameters, (depthwise + pointwise).parameters
    (2359296, 266752)

    A model, on a batch of two:

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    >>> cost = count(model, torch.empty(2, 3, 5, 5))
    >>> cost.total.macs, cost.total.parameters
    (1944, 120)
    """
    if isinstance(model, ConvSpec):
        return _count_spec(model)
    _check_model(model)
    arguments = _arguments(example)
    try:
        return _count_weightless(model, arguments)
    except Exception as error:
        reason = _needs_values(error)
        if reason is None:
            raise
    return _count_for_real(model, arguments, reason)


def _count_spec(spec: ConvSpec) -> Cost:
    moved = spec.c_in * math.prod(spec.size) + spec.c_out * math.prod(spec.size_out)
    return Cost(
        macs=spec.macs,
        parameters=spec.weights,
        weight_bytes=spec.weights * ITEM_BYTES["float32"],
        activation_bytes=moved * ITEM_BYTES["float32"],
    )


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise ModelError("count", given=repr(type(model).__name__), expected="a ConvSpec, or a model and an example")
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"count: module {path!r}",
                given="TorchScript, whose layers cannot be told apart",
                expected="a model in plain PyTorch",
                remedy="Give the model that the script was made from, or a file saved by torch.export.save.",
            )
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(
                f"count: parameter {path!r}",
                given="a lazy module that has no shape yet",
                expected="a model with weights",
                remedy="Run the model once on the example.",
            )


def _arguments(example: object) -> Arguments:
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, tuple):
        return example, {}
    if isinstance(example, Mapping):
        return (), dict(example)
    raise ModelError(
        "count: example",
        given=repr(type(example).__name__),
        expected="a tensor, a tuple of arguments or a dict of keyword arguments",
    )


def _count_weightless(model: nn.Module, arguments: Arguments) -> ModelCost:
    home = _home(model, arguments)

    def weightless(tensor: Tensor) -> Tensor:
        if tensor.layout is not torch.strided:
            return tensor
        device = home if tensor.is_meta else tensor.device
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
        return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty

    with _no_complaints(), FakeTensorMode(allow_non_fake_inputs=True):
        return _follow(model, arguments, weightless, notes=())


def _count_for_real(model: nn.Module, arguments: Arguments, reason: str) -> ModelCost:
    def kept(tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            raise ModelError(
                "count",
                given=f"tensors on the meta device for a forward that needs values ({reason})",
                expected="a model and an example with values",
            )
        return tensor if isinstance(tensor, nn.Parameter) else tensor.clone()

    note = f"The forward needs values ({reason}): it was run once; another example may take another path."
    with torch.random.fork_rng(devices=[]):
        return _follow(model, arguments, kept, notes=(note,))


def _follow(
    model: nn.Module, arguments: Arguments, stand_in: Callable[[Tensor], Tensor], notes: tuple[str, ...]
) -> ModelCost:
    """One forward of ``model`` with stand-ins for all tensors, recorded."""
    with _plain_execution(), borrowed(model, stand_in):
        args, kwargs = tree_map_only(Tensor, stand_in, arguments)
        recorder = Recorder(model)
        with recorder.following():
            try:
                model(*args, **kwargs)
            except Exception as error:
                if isinstance(error, SeparableError) or _needs_values(error):
                    raise
                raise _broken(recorder.broken_by(error), error) from error
        layers = recorder.layers()
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if frozen:
        notes += (f"{frozen:,} parameters are frozen: in the bytes of weights, not among the trainable parameters.",)
    return ModelCost(layers=layers, unknown=recorder.unknown, notes=notes)


@contextmanager
def _plain_execution() -> Iterator[None]:
    """No gradients, no compiled graphs, no fused transformer: each operation comes by on its own."""
    had_fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(had_fast_path)


@contextmanager
def _no_complaints() -> Iterator[None]:
    """PyTorch logs a traceback for each shape error that it also raises."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was_disabled


def _home(model: nn.Module, arguments: Arguments) -> torch.device:
    """Where tensors of the meta device are taken to be: where the others are."""
    devices: list[torch.device] = []
    tree_map_only(Tensor, lambda t: devices.append(t.device), [*model.parameters(), *model.buffers(), arguments])
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))


def _needs_values(error: Exception) -> str | None:
    """What asked for the values of a tensor that has none; None when the error is another."""
    if isinstance(error, DataDependentOutputException | DynamicOutputShapeException | UnsupportedOperatorException):
        return str(error.func)
    is_plain = any(words in str(error) for words in _NEEDS_VALUES)
    return str(error).split(". ")[0] if is_plain or isinstance(error, UnsupportedFakeTensorException) else None


# What PyTorch's plain RuntimeErrors say for: x.numpy(), a custom operator without a shape rule, foreign native code.
_NEEDS_VALUES = ("not supported for tensor subclasses", "no fake impl registered", "Cannot access data pointer")


def _broken(running: Running, error: Exception) -> ModelError:
    given = ", ".join(map(described, running.inputs)) or "nothing"
    message = (str(error) or type(error).__name__).strip().splitlines()[0]
    return ModelError(
        f"count: {running}", given=given, expected=_wanted(running.module), remedy=f"PyTorch says: {message}"
    )


def _wanted(module: nn.Module) -> str:
    weight = getattr(module, "weight", None)
    dtype = str(weight.dtype).removeprefix("torch.") if isinstance(weight, Tensor) else "any dtype"
    match module:
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            sizes = ", ".join("dhw"[-len(module.kernel_size) :])
            return f"{dtype}[n, {module.in_channels}, {sizes}], no smaller than the kernel"
        case nn.Linear():
            return f"{dtype}[…, {module.in_features}]"
        case nn.modules.batchnorm._NormBase():
            return f"{dtype}[n, {module.num_features}, …]"
    return "what its forward takes"
