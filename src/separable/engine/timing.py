"""Times on the engine, for planning. In: layers, models, an example. Out: what runs one forward, or seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from separable.cost.clock import measure, this_software
from separable.cost.ledger import Ledger
from separable.cost.machine import Machine
from separable.engine.layers import inner_steps
from separable.engine.program import compile
from separable.errors import ModelError
from separable.graph.inference import Example, evaluating
from separable.nn.factorized import CONVS, FactorizedConv
from separable.plan.timing import Timer


def engine_timer(ledger: Ledger, machine: Machine) -> Timer:
    """A timer for layers and models on the engine; convolutions that the ledger knows are not run again.

    A convolution is timed as a part of a network: without bringing the caller's tensors into the engine's layout and
    out again, and with the tiles that the cost model takes for the best.
    """

    def seconds(layer: nn.Module, x: Tensor) -> float:
        key = time_key("separable", layer, x, machine)
        timing = None if key is None else ledger.get(key)
        if timing is None:
            with evaluating(layer):
                program = compile(layer, x, measure=key is None)
                run: Callable[[], Any] = (lambda: program(x)) if key is None else inner_steps(program, x)
                timing = measure(run, min_s=0.03, max_s=1.0 if key is None else 0.15)
            if key is not None:
                ledger.put(key, timing)
        return timing.min_s

    return seconds


def forward_on_engine(model: nn.Module, example: Example) -> Callable[[], Any]:
    """One forward of the compiled model on the example, a tensor or several of them.

    Raises ``ModelError`` for an example of another form.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    if not all(isinstance(x, Tensor) for x in inputs):
        raise ModelError(
            'engine="separable"',
            given=f"an example that is a {type(example).__name__}",
            expected="a tensor, or a tuple of tensors",
            remedy='Take engine="eager", or wrap the model in one whose forward takes tensors.',
        )
    with evaluating(model):
        program = compile(model, inputs)
    return lambda: program(*inputs)


def time_key(engine: str, layer: nn.Module, x: Tensor, machine: Machine) -> dict[str, Any] | None:
    """All that the time of a convolution or a chain of them depends on; None for any other module."""
    chain = [layer] if isinstance(layer, CONVS) else list(layer.children()) if isinstance(layer, FactorizedConv) else []
    if not chain:
        return None
    return {
        "engine": engine,
        "layers": [str(part) for part in chain],
        "layouts": [part.weight.stride() for part in chain if isinstance(part, CONVS)],
        "input": [list(x.shape), list(x.stride()), str(x.dtype), str(x.device)],
        "machine": [machine.name, machine.cores, list(machine.instruction_sets)],
        "threads": torch.get_num_threads(),
        "versions": this_software(),
    }
