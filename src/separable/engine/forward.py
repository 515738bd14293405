"""One forward of a model for inputs of one shape. In: a module and its inputs. Out: what is called instead of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from separable.engine.lower import lower
from separable.engine.lowered import Call, Lowered, Name
from separable.engine.record import record
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM
from separable.runtime.environment import Environment
from separable.runtime.native import NativeNetwork
from separable.runtime.network import Network
from separable.runtime.schedule import Choose


@dataclass(frozen=True, kw_only=True, eq=False)
class Forward:
    """Steps over an environment of values; ``natives`` by the position of their step."""

    lowered: Lowered
    natives: Mapping[int, NativeNetwork]

    def __call__(self, inputs: Sequence[Any]) -> Any:
        """What the module returns for inputs like those that this was built for, ``held`` ones among them."""
        if self._is_one_network:
            return _run(self.natives[0], self._outputs[0], inputs)[0]
        with torch.no_grad():
            return self._through_environment(inputs)

    @cached_property
    def _is_one_network(self) -> bool:
        """Whether a single network reads the inputs as they come and makes the only output as it goes."""
        if len(self.lowered.steps) != 1 or not self.natives:
            return False
        native, out = self.natives[0], self.lowered.outputs
        is_plain = isinstance(out, Name) and (out.name, out.shape, out.seen) == (native.made[0][0], None, None)
        return is_plain and tuple(name for name, _ in native.given) == self.lowered.inputs

    @cached_property
    def _outputs(self) -> dict[int, _Outputs]:
        """New tensors for what each native network makes."""
        return {i: _Outputs([shape for _, shape in native.made]) for i, native in self.natives.items()}

    def _through_environment(self, inputs: Sequence[Any]) -> Any:
        lowered = self.lowered
        environment = Environment(lowered.constants, lowered.shapes, lowered.views, torch.stack)
        for name, x in zip(lowered.inputs, inputs, strict=True):
            if name is not None:
                environment[name] = x
        for i, step in enumerate(lowered.steps):
            if isinstance(step, Call):
                environment[step.name] = step.run(environment)
            else:
                native = self.natives[i]
                made = _run(native, self._outputs[i], [environment[name] for name, _ in native.given])
                environment.update(zip((name for name, _ in native.made), made, strict=True))
        return lowered.result(environment)

    def __str__(self) -> str:
        """What runs natively, what is left to PyTorch and why."""
        lowered = self.lowered
        shapes = ", ".join(f"{name} {lowered.shapes.get(name, ())}" for name in lowered.inputs if name)
        lines = [f"for {shapes}: {len(self.natives)} native, {len(lowered.calls)} in PyTorch"]
        for i, step in enumerate(lowered.steps):
            if isinstance(step, Call):
                lines.append(f"  PyTorch  {step.name}: {step.reason}")
            else:
                native = self.natives[i]
                threads = f"{native.threads} thread" + "s" * (native.threads > 1)
                lines.append(
                    f"  native   {len(step.nodes)} operators, {step.macs:,} MACs an image, {threads}, {native.isa}"
                )
                lines += [f"             {line}" for line in str(step).splitlines()]
        return "\n".join(lines)


def build(
    module: nn.Module, inputs: Sequence[Any], isa: Isa, threads: int, choose: Choose, held: Sequence[int] = ()
) -> Forward:
    """Records, lowers and compiles; ``held`` are the positions of inputs that are constants (a graph's parameters).

    Raises ``ModelError`` where the forward cannot be recorded.
    """
    lowered = lower(record(module, inputs, held))
    tensors = dict(zip(lowered.inputs, inputs, strict=True))
    last = frozenset(name for name in lowered.inputs if name and is_channels_last(tensors[name]))
    natives = {
        i: NativeNetwork(step, lowered.shapes, isa, threads, choose, last & set(step.inputs))
        for i, step in enumerate(lowered.steps)
        if isinstance(step, Network)
    }
    return Forward(lowered=lowered, natives=natives)


def is_channels_last(x: Any) -> bool:
    """Whether a tensor's channels lie next to each other and it can be read as it is."""
    return (
        isinstance(x, Tensor)
        and x.ndim == 4
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _run(native: NativeNetwork, outputs: _Outputs, tensors: Sequence[Tensor]) -> list[Tensor]:
    given = [
        x.contiguous(memory_format=torch.channels_last) if is_last else x.contiguous()
        for x, (_, is_last) in zip(tensors, native.given, strict=True)
    ]
    made = outputs.take()
    native([x.data_ptr() for x in (*given, *made)])
    return made


class _Outputs:
    """New tensors of these shapes; small ones are made several at a time.

    The first one behind a forward is slow to make: the weights have left nothing of PyTorch in the caches.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        self._shapes = shapes
        self._in_hand: list[list[Tensor]] = []
        size = sum(ITEM * math.prod(shape) for shape in shapes)
        self._at_once = max(1, min(MOST_IN_HAND, BYTES_IN_HAND // max(size, 1)))

    def take(self) -> list[Tensor]:
        """Tensors that nobody else has, of unknown numbers; never such as only inference mode may use."""
        try:
            return self._in_hand.pop()
        except IndexError:
            with torch.inference_mode(False):
                made = [[_empty(shape) for shape in self._shapes] for _ in range(self._at_once)]
            self._in_hand += made[1:]
            return made[0]


MOST_IN_HAND, BYTES_IN_HAND = 16, 64 * 1024


def _empty(shape: tuple[int, ...]) -> Tensor:
    """Whatever a person's defaults for new tensors are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")
