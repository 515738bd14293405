"""In: what was counted in one layer. Out: frozen costs that add up, go to JSON and print as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from separable.cost.table import draw_table
from separable.spec import ConvSpec

KINDS = ("dense", "depthwise", "pointwise", "grouped", "transposed", "linear", "matmul", "norm", "other")
CONVENTION = "Counted, not measured. MACs: multiply-accumulates of convolutions and matrix products, no bias."


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a layer or a model costs; costs add up with ``+``, and ``Cost()`` costs nothing.

    ``parameters`` are the trainable ones. ``weight_bytes`` are the bytes of all parameters, frozen ones too, and of
    nothing else (no buffers). ``activation_bytes`` are the bytes that layers with MACs or parameters read and write.
    """

    macs: int = 0
    parameters: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0

    @property
    def macs_per_byte(self) -> float:
        """MACs for each byte of weights and activations moved; 0 when nothing moves."""
        moved = self.weight_bytes + self.activation_bytes
        return self.macs / moved if moved else 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            macs=self.macs + other.macs,
            parameters=self.parameters + other.parameters,
            weight_bytes=self.weight_bytes + other.weight_bytes,
            activation_bytes=self.activation_bytes + other.activation_bytes,
        )

    def to_json(self) -> dict[str, int]:
        """Plain integers; ``Cost(**cost.to_json())`` gives the value back."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.macs:,} MACs, {self.parameters:,} parameters, {self.weight_bytes:,} bytes of weights, "
            f"{self.activation_bytes:,} bytes of activations"
        )


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """The cost of one layer over a whole forward: a module with parameters of its own, or one functional operation.

    ``name`` is the module's path; a functional operation is called after the module that runs it, ``block:conv2d``, and
    ``block:conv2d#2`` for the second one there. ``specs`` has a ``ConvSpec`` for each call of a (not transposed)
    convolution. ``batch`` is the number of images, or of rows in a matrix product, of the first call; 0 where nothing
    is multiplied. A layer that never ran has no calls.
    """

    name: str
    kind: str
    cost: Cost
    specs: tuple[ConvSpec, ...]
    calls: int
    batch: int
    module: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "specs": [spec.to_json() for spec in self.specs]}


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """The cost of a model on one example, whole batch included; layers in the order in which they first ran.

    ``unknown`` lists the operations whose MACs are not understood: they are not in any number here.
    """

    layers: tuple[LayerCost, ...]
    unknown: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())

    @property
    def total(self) -> Cost:
        """The sum over all layers."""
        return sum((layer.cost for layer in self.layers), Cost())

    def by_kind(self) -> dict[str, Cost]:
        """The sum over the layers of each kind that occurs, in the order of ``KINDS``."""
        kinds = [kind for kind in KINDS if any(layer.kind == kind for layer in self.layers)]
        return {kind: sum((layer.cost for layer in self.layers if layer.kind == kind), Cost()) for kind in kinds}

    def to_json(self) -> dict[str, Any]:
        """Plain values: the layers, totals, what is unknown."""
        return {
            "total": self.total.to_json(),
            "by_kind": {kind: cost.to_json() for kind, cost in self.by_kind().items()},
            "layers": [layer.to_json() for layer in self.layers],
            "unknown": list(self.unknown),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        columns = ["layer", "kind", "shape", ">calls", ">MACs", ">parameters", ">weight B", ">activation B", ">MACs/B"]
        rows = [
            [layer.name or "(model)", layer.kind, _shapes(layer.specs), f"{layer.calls}", *_cells(layer.cost)]
            for layer in self.layers
        ]
        totals = [[f"all {kind}", "", "", "", *_cells(cost)] for kind, cost in self.by_kind().items()]
        totals.append(["total", "", "", "", *_cells(self.total)])
        lines = [draw_table(columns, rows, title=CONVENTION, totals=totals)]
        lines += [f"Not understood, not counted: {entry}" for entry in self.unknown]
        return "\n".join([*lines, *self.notes])


def _cells(cost: Cost) -> list[str]:
    numbers = (cost.macs, cost.parameters, cost.weight_bytes, cost.activation_bytes)
    return [*(f"{number:,}" for number in numbers), f"{cost.macs_per_byte:.1f}"]


def _shapes(specs: tuple[ConvSpec, ...]) -> str:
    return ", ".join(dict.fromkeys(map(str, specs)))
