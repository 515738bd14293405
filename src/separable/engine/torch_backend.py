"""``torch.compile(model, backend="separable")``. In: Dynamo's graph. Out: a function that runs it natively.

Parameters and buffers are taken as constants until one is changed in place or replaced; then the graph is compiled
again. Where gradients are wanted, or the graph changes what it holds (a counter, statistics in training mode), PyTorch
runs it, and a warning says so once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from separable.engine.forward import Forward, build, is_channels_last
from separable.errors import ModelError, SeparableWarning
from separable.kernels.isa import host
from separable.runtime.tuning import Tuner


def compile(graph: fx.GraphModule, example: Sequence[Any]) -> Callable[..., Any]:  # noqa: ARG001 - Dynamo's signature
    """A stand-in for the graph, compiled when it is first called, for each shape that comes."""
    held = [i for i, node in enumerate(n for n in graph.graph.nodes if n.op == "placeholder") if _is_static(node)]
    isa, threads = host(), torch.get_num_threads()
    tuner = Tuner(isa, threads)
    forwards: dict[Any, Forward] = {}
    versions: list[tuple[int, int]] = []
    is_refused = False

    def run(*inputs: Any) -> Any:
        nonlocal versions, is_refused
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
            _say_once(TRAINING)
            return graph(*inputs)
        if is_refused:
            return graph(*inputs)
        now = [(inputs[i].data_ptr(), inputs[i]._version) for i in held]
        if now != versions:
            forwards.clear()
            versions = now
        free = {i: x for i, x in enumerate(inputs) if i not in kept}
        # Dynamo hands over a number that it leaves open as a tensor without axes; its value is part of the program.
        numbers = [i for i, x in free.items() if isinstance(x, Tensor) and not x.dim()]
        key = tuple(x.item() if i in numbers else _form(x) for i, x in free.items())
        if key not in forwards:
            try:
                forwards[key] = build(graph, inputs, isa, threads, tuner, [*held, *numbers])
            except ModelError as error:
                is_refused = True  # for good: what a graph does to its state does not depend on shapes
                _say_once(f'torch.compile(backend="separable"): PyTorch runs this graph. {error}')
                return graph(*inputs)
        return forwards[key](inputs)

    kept = frozenset(held)
    return run


def _form(x: Any) -> Any:
    """All of an input that a program depends on."""
    return (tuple(x.shape), x.dtype, is_channels_last(x)) if isinstance(x, Tensor) else x


def _is_static(node: fx.Node) -> bool:
    """Whether Dynamo marked the input as a parameter or buffer of a module."""
    return "_dynamo_static_input_type" in (node.meta.get("tensor_dict") or {})


TRAINING = (
    'torch.compile(backend="separable") runs inference; gradients are wanted here, so PyTorch runs the graph. '
    "Call under torch.no_grad() to run natively."
)
_said: set[str] = set()


def _say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        warnings.warn(message, SeparableWarning, stacklevel=3)
