"""A model as native programs. In: a PyTorch model and an example. Out: a ``Program`` that is called like the model."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from separable.engine.forward import Forward, build, is_channels_last
from separable.engine.saving import Given, saved
from separable.errors import ModelError
from separable.kernels.isa import Isa, host
from separable.runtime.saved import write
from separable.runtime.session import checked_threads
from separable.runtime.tuning import Tuner

Array = Tensor | NDArray[np.float32]


def compile(
    model: nn.Module,
    example: Array | tuple[Array, ...],
    *,
    threads: int | None = None,
    level: str | None = None,
    measure: bool = True,
) -> Program:
    """The model as native code for this processor, for the example's shape now and for others when they come.

    ``threads``: the most that a call uses, PyTorch's own number by default. ``level``: an instruction set other than
    the best one. ``measure``: tries a few tiles a layer, once a machine; without it a cost model decides. The weights
    are those of this moment.

    Raises ``ModelError`` for a model in training mode, without numbers, or whose forward depends on its data.
    """
    if any(module.training for module in model.modules()):
        raise ModelError(
            "separable.compile",
            given="a model in training mode",
            expected="a model that infers",
            remedy="Call model.eval() first; train in PyTorch, compile afterwards.",
        )
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(
            "separable.compile",
            given="a model on the meta device",
            expected="a model whose weights have numbers",
            remedy="Load its weights first.",
        )
    threads = checked_threads(threads, "separable.compile", torch.get_num_threads())
    program = Program(model, host(level), threads, measure=measure)
    program.prepare(*(example if isinstance(example, tuple) else (example,)))
    return program


class Program:
    """A compiled model: call it with tensors or NumPy arrays, get tensors. Batch and image size may change.

    Each new shape is compiled once and kept. Several Python threads may call at once: they take turns.
    """

    def __init__(self, model: nn.Module, isa: Isa, threads: int, *, measure: bool = True) -> None:
        self.model, self.isa, self.threads = model, isa, threads
        self._tuner = Tuner(isa, threads, is_measuring=measure)
        self._forwards: dict[tuple[Given, ...], Forward] = {}
        self._found: dict[tuple[Any, ...], Forward] = {}
        self._preparing = threading.Lock()

    def prepare(self, *inputs: Array) -> Forward:
        """Compiles for inputs like these, unless that is done already."""
        return self._forward([_checked(i, x) for i, x in enumerate(inputs)])

    def __call__(self, *inputs: Array) -> Any:
        """What the model would give. Raises ``ModelError`` for other dtypes, other devices, and for gradients."""
        key = _key(inputs)
        forward = self._found.get(key)
        if forward is not None:
            return forward(inputs)
        tensors = [_checked(i, x) for i, x in enumerate(inputs)]
        forward = self._forward(tensors)
        if key:
            self._found[key] = forward
        return forward(tensors)

    def explain(self) -> str:
        """What runs natively, what is left to PyTorch and why, for each shape so far."""
        return "\n\n".join(map(str, self._forwards.values()))

    def save(self, path: str | Path) -> None:
        """Everything compiled so far, for ``separable.load`` to run without PyTorch, on any processor.

        The file is safetensors: the weights, and the networks of operators as JSON. Raises ``ModelError`` where a part
        stays in PyTorch, ``FileError`` where the file cannot be written.
        """
        write(path, [saved(forward, key) for key, forward in self._forwards.items()])

    def _forward(self, tensors: Sequence[Tensor]) -> Forward:
        key = tuple(Given(tuple(x.shape), x.dtype, is_channels_last(x)) for x in tensors)
        forward = self._forwards.get(key)
        if forward is None:
            with self._preparing:
                forward = self._forwards.get(key)
                if forward is None:
                    forward = build(self.model, tensors, self.isa, self.threads, self._tuner)
                    self._forwards[key] = forward
        return forward


def _key(inputs: tuple[Array, ...]) -> tuple[Any, ...]:
    """All that a program and the checks depend on; empty where an input has to be converted, or looked at each time."""
    key = []
    for x in inputs:
        if type(x) is not Tensor or x.requires_grad:
            return ()
        key.append((x.shape, x.stride(), x.dtype, x.is_cpu))
    return tuple(key)


def _checked(position: int, x: Array) -> Tensor:
    where = f"input {position} of the program"
    if isinstance(x, np.ndarray):
        x = torch.from_numpy(np.ascontiguousarray(x))
    if not isinstance(x, Tensor):
        remedy = "Give several inputs as a tuple, in the order of the forward's arguments."
        raise ModelError(where, given=type(x).__name__, expected="a tensor or a NumPy array", remedy=remedy)
    if x.device.type != "cpu":
        raise ModelError(where, given=f"a tensor on {x.device}", expected="a tensor on the CPU")
    if x.layout != torch.strided:
        raise ModelError(where, given=f"a tensor of {x.layout}", expected="a dense one", remedy="Call .to_dense().")
    if x.is_floating_point() and x.dtype != torch.float32:
        raise ModelError(where, given=str(x.dtype), expected="float32", remedy="Convert it with .float().")
    if x.requires_grad and torch.is_grad_enabled():
        raise ModelError(
            where,
            given="a tensor that wants gradients",
            expected="inference",
            remedy="Train in PyTorch, compile afterwards; or call under torch.no_grad().",
        )
    return x
