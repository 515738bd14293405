"""A network as a short list of operators. In: operators with their weights. Out: the value that is scheduled.

Everything is said for one image: a batch is the same network over every image. Shapes are (c, h, w); a vector is a map
of one pixel, a signal a map of one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
from numpy.typing import ArrayLike, NDArray

from separable.kernels.epilogue import NONE, Activation
from separable.kernels.resampling import Axis
from separable.spec import ConvSpec

Floats = NDArray[np.float32]
Shape = tuple[int, int, int]
MAX_PHASES = 64  # that are worth a step each
NON_NEGATIVE = frozenset({"relu", "sigmoid", "hard_sigmoid", "softplus", "absolute", "exp"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolve:
    """A convolution or a linear layer. A second input of the node is added before its activation.

    ``gain`` multiplies the weights of each output channel, when they are asked for: ``weight`` may be the model's own
    memory, or lie in a file, and a network need not hold its weights a second time.
    """

    spec: ConvSpec
    weight: ArrayLike
    bias: Floats
    gain: Floats | None = None

    @property
    def weights(self) -> Floats:
        """What the maps are multiplied with: (c_out, c_in/g, k_h, k_w)."""
        weight = np.asarray(self.weight, np.float32)
        return weight if self.gain is None else weight * self.gain[:, None, None, None]

    def scaled(self, scale: Floats, shift: Floats) -> Convolve:
        """With y·scale + shift behind it."""
        gain = scale if self.gain is None else self.gain * scale
        return replace(self, gain=gain, bias=self.bias * scale + shift)

    @property
    def is_depthwise(self) -> bool:
        """One input channel a group, whatever the multiplier."""
        return self.spec.groups == self.spec.c_in and self.spec.groups > 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine:
    """x·scale + shift, for each channel: a batch norm that no convolution takes, or arithmetic with a number."""

    scale: Floats
    shift: Floats


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """``kind``: ``"max"`` or ``"average"``; ``counts_padding`` as PyTorch's ``count_include_pad``."""

    kind: str
    spec: ConvSpec
    counts_padding: bool = True


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The average over all pixels."""


@dataclass(frozen=True, kw_only=True)
class Combine:
    """``operation`` of two maps, the second may have one pixel or one channel; or of one map and constants.

    ``kernels.elementwise`` names them.
    """

    operation: str
    constants: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Activate:
    """Only the node's activation."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Slope:
    """A leaky ReLU with a slope for each channel."""

    slope: Floats


@dataclass(frozen=True, kw_only=True)
class Join:
    """Maps behind each other, by channel."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The channels from ``first`` on, as many as the node's shape says."""

    first: int


@dataclass(frozen=True, kw_only=True)
class Pad:
    """Zeros around a map: ((top, bottom), (left, right))."""

    padding: tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Take:
    """Pixels taken from elsewhere, rows and columns each by a list: resizing, cropping, turning, reflecting."""

    rows: Axis
    columns: Axis


@dataclass(frozen=True, kw_only=True, eq=False)
class Reorder:
    """Channel i is the input's channel ``order[i]``.

    ``parts``: so many pixels (rows, columns) become one, whose channels are counted as by a pixel unshuffle. ``step``:
    so many are made of one; ``order`` has all channels of the first of them, then those of the next.
    """

    order: NDArray[np.int64]
    parts: tuple[int, int] = (1, 1)
    step: tuple[int, int] = (1, 1)

    @property
    def is_none(self) -> bool:
        """Whether everything stays where it is."""
        is_still = self.parts == self.step == (1, 1)
        return is_still and bool((self.order == np.arange(len(self.order))).all())


@dataclass(frozen=True, kw_only=True)
class Interleave:
    """Every ``step``-th row and column is one of the inputs, which nobody else reads; the first row of them first."""

    step: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Softmax:
    """Over the channels of each pixel; its logarithm if ``is_log``."""

    is_log: bool = False


@dataclass(frozen=True, kw_only=True)
class Reduce:
    """The greatest (``kind`` is ``"max"``) or the ``"mean"`` of each pixel's channels."""

    kind: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Normalise:
    """Each pixel's channels less their mean, over their deviation; then ·scale + shift for each channel."""

    scale: Floats
    shift: Floats
    eps: float


@dataclass(frozen=True, kw_only=True, eq=False)
class NormaliseGroups:
    """The same over all pixels of each of ``groups`` of channels."""

    scale: Floats
    shift: Floats
    eps: float
    groups: int


Operator = (
    Convolve
    | Affine
    | Pooling
    | Mean
    | Combine
    | Activate
    | Slope
    | Join
    | Part
    | Pad
    | Take
    | Reorder
    | Interleave
    | Softmax
    | Reduce
    | Normalise
    | NormaliseGroups
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """An operator, the maps that it reads, the shape of the map that it writes, and what is done to it at the end."""

    name: str
    inputs: tuple[str, ...]
    operator: Operator
    shape: Shape
    activation: Activation = NONE

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self.operator.spec.macs if isinstance(self.operator, Convolve) else 0

    @property
    def is_non_negative(self) -> bool:
        """Whether its activation leaves nothing below zero."""
        return self.activation.kind in NON_NEGATIVE or (self.activation.kind == "clamp" and self.activation.low >= 0)

    def __str__(self) -> str:
        return f"{self.name}: {self.what}"

    @property
    def what(self) -> str:
        """What it does, in words."""
        what = type(self.operator).__name__.lower()
        if isinstance(self.operator, Convolve | Pooling):
            what = f"{what} {self.operator.spec}"
        if isinstance(self.operator, Interleave):
            what = f"{what} {_by(self.operator.step)}"
        if isinstance(self.operator, Reorder) and self.operator.parts != (1, 1):
            what = f"pixel unshuffle {_by(self.operator.parts)}"
        if isinstance(self.operator, Reorder) and self.operator.step != (1, 1):
            what = f"pixel shuffle {_by(self.operator.step)}"
        if isinstance(self.operator, Combine):
            what = " ".join([self.operator.operation, *(f"{number:g}" for number in self.operator.constants)])
        extra = " + " + self.inputs[1] if isinstance(self.operator, Convolve) and len(self.inputs) > 1 else ""
        then = "" if self.activation.kind == "none" else f" → {self.activation}"
        return f"{what}{extra}{then}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """Nodes, each behind those that it reads; ``outputs`` gives the map for each name that the caller knows."""

    inputs: Mapping[str, Shape]
    nodes: tuple[Node, ...]
    outputs: Mapping[str, str]

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(node.macs for node in self.nodes)

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shape of every map."""
        return {**self.inputs, **{node.name: node.shape for node in self.nodes}}

    def readers(self) -> dict[str, list[Node]]:
        """The nodes that read each map."""
        found: dict[str, list[Node]] = {name: [] for name in self.shapes}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found[name].append(node)
        return found

    def __str__(self) -> str:
        """A line a node; one for phases that are alike."""
        lines = []
        for (_, what), alike in groupby(
            self.nodes, lambda node: (node.name.rpartition(".")[0] or node.name, node.what)
        ):
            first, *rest = (node.name for node in alike)
            lines.append(f"{first} to {rest[-1]}: {what}" if rest else f"{first}: {what}")
        return "\n".join(lines)


def interleaved(phases: Sequence[Node], step: tuple[int, int], result: str) -> list[Node]:
    """The phases, the first row of them first, and what they make; a single one is the result."""
    if len(phases) == 1:
        return [replace(phases[0], name=result)]
    h, w = sum(p.shape[1] for p in phases[:: step[1]]), sum(p.shape[2] for p in phases[: step[1]])
    inputs = tuple(phase.name for phase in phases)
    whole = Node(name=result, inputs=inputs, operator=Interleave(step=step), shape=(phases[0].shape[0], h, w))
    return [*phases, whole]


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]}×{pair[1]}"


@dataclass
class Edit:
    """A network under change by one pass: nodes replaced or dropped, readers of a dropped one sent elsewhere."""

    network: Network
    nodes: dict[str, Node] = field(init=False)
    renamed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = {node.name: node for node in self.network.nodes}
        self._counts: dict[str, int] = {}
        for node in self.network.nodes:
            for name in node.inputs:
                self._counts[name] = self._counts.get(name, 0) + 1
        for name in self.network.outputs.values():
            self._counts[name] = self._counts.get(name, 0) + 1

    def name(self, name: str) -> str:
        """What ``name`` is called after the changes so far."""
        while name in self.renamed:
            name = self.renamed[name]
        return name

    def sole(self, name: str) -> Node | None:
        """The node that writes ``name``, if exactly one reader uses it; None otherwise and for the network's inputs."""
        return self.nodes.get(self.name(name)) if self._counts.get(name, 0) == 1 else None

    def merge(self, node: Node, into: Node, **changes: object) -> None:
        """``into``, changed, takes the place of ``node``."""
        self.nodes[into.name] = replace(into, **changes)  # type: ignore[arg-type]
        del self.nodes[node.name]
        self.renamed[node.name] = into.name
        self._counts[into.name] = self._counts.get(node.name, 0)

    def finish(self) -> Network:
        """The changed network."""
        nodes = tuple(replace(node, inputs=tuple(self.name(i) for i in node.inputs)) for node in self.nodes.values())
        return replace(self.network, nodes=nodes, outputs={o: self.name(m) for o, m in self.network.outputs.items()})
