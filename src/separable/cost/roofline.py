"""In: what a layer costs and a machine's two rates. Out: predicted seconds, and whether arithmetic or memory binds.

The roofline model: Williams, Waterman, Patterson 2009. It is a floor: no layer is faster, many are slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from separable.cost.counting import count
from separable.cost.machine import Machine
from separable.cost.table import draw_table
from separable.cost.values import LayerCost, ModelCost
from separable.spec import ConvSpec


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predicted seconds, and what binds: ``"compute"`` or ``"memory"``."""

    seconds: float
    bound: str

    def __str__(self) -> str:
        return f"predicted {self.seconds * 1e3:.4g} ms, bound by {self.bound}"


@dataclass(frozen=True, kw_only=True)
class ModelPrediction:
    """One prediction a layer that runs, by the layer's name; ``seconds`` is their sum."""

    layers: Mapping[str, Prediction]
    machine: Machine

    @property
    def seconds(self) -> float:
        """Predicted seconds of the layers with MACs or parameters, one after the other."""
        return sum(layer.seconds for layer in self.layers.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        layers = {name: {"seconds": layer.seconds, "bound": layer.bound} for name, layer in self.layers.items()}
        return {"seconds": self.seconds, "layers": layers, "machine": self.machine.to_json()}

    def __str__(self) -> str:
        rows = [[name or "(model)", f"{p.seconds * 1e3:.4g}", p.bound] for name, p in self.layers.items()]
        total = [["total", f"{self.seconds * 1e3:.4g}", ""]]
        title = f"Predicted, not measured, for {self.machine}"
        return draw_table(["layer", ">predicted ms", "bound"], rows, title=title, totals=total)


def predict(layer: ConvSpec | LayerCost, machine: Machine, batch: int = 1) -> Prediction:
    """The longer of multiplying and moving: max(macs / fma_per_s, bytes / bytes_per_s).

    ``batch`` multiplies MACs and activations: images for a ``ConvSpec`` (float32), batches like the counted one for a
    ``LayerCost``. Weights move once a call.

    >>> machine = Machine(name="m", cores=1, threads=1, instruction_sets=(), fma_per_s=1e9, bytes_per_s=1e9)
    >>> predict(ConvSpec(64, 64, kernel=1, size=(10, 10)), machine)  # 409,600 MACs; 67,584 bytes
    Prediction(seconds=0.0004096, bound='compute')
    >>> predict(ConvSpec(64, 64, kernel=3, size=(12, 12), groups=64), machine)  # 57,600 MACs; 64,768 bytes
    Prediction(seconds=6.4768e-05, bound='memory')
    """
    cost, calls = (count(layer), 1) if isinstance(layer, ConvSpec) else (layer.cost, layer.calls)
    compute_s = batch * cost.macs / machine.fma_per_s
    memory_s = (calls * cost.weight_bytes + batch * cost.activation_bytes) / machine.bytes_per_s
    return Prediction(seconds=max(compute_s, memory_s), bound="compute" if compute_s >= memory_s else "memory")


def predict_model(cost: ModelCost, machine: Machine) -> ModelPrediction:
    """Each layer of a counted model that runs, on the example that it was counted with."""
    return ModelPrediction(
        layers={layer.name: predict(layer, machine) for layer in cost.layers if layer.calls}, machine=machine
    )
