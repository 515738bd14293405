"""The convolutions of a model as values. In: what tracing found. Out: sites, skipped layers with reasons, the cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from separable.cost.table import draw_table
from separable.cost.values import ModelCost
from separable.spec import ConvSpec


@dataclass(frozen=True, kw_only=True)
class Site:
    """A convolution layer that can be rewritten: where it is, its shape, and how one forward runs it.

    ``spec`` is that of the first call; ``sizes`` has the input size of every call, in order. ``batch`` is the number of
    images of the first call. ``weights_train`` and ``bias_trains`` say whether weight and bias are trainable; without a
    bias the second is as the first.
    """

    name: str
    spec: ConvSpec
    sizes: tuple[tuple[int, ...], ...]
    batch: int
    padding_mode: str
    bias: bool
    weights_train: bool = True
    bias_trains: bool = True

    @property
    def calls(self) -> int:
        """How often one forward runs it."""
        return len(self.sizes)

    @property
    def specs(self) -> tuple[ConvSpec, ...]:
        """The shape of each call."""
        return tuple(self.spec.at(size) for size in self.sizes)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all calls, batch included."""
        return self.batch * sum(spec.macs for spec in self.specs)

    def __str__(self) -> str:
        calls = f" ({self.calls} calls)" if self.calls > 1 else ""
        return f"{self.name}: {self.spec}{calls}"


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A convolution that stays as it is, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Sites:
    """Every convolution of a model, in the order in which they first run, and the counted cost of the whole model."""

    sites: tuple[Site, ...]
    skipped: tuple[Skipped, ...]
    cost: ModelCost

    def to_json(self) -> dict[str, Any]:
        """Plain values: the sites with their MACs (counted), what was skipped, the cost of the model."""
        return {
            "sites": [{**asdict(site), "spec": site.spec.to_json(), "macs": site.macs} for site in self.sites],
            "skipped": [asdict(skipped) for skipped in self.skipped],
            "cost": self.cost.to_json(),
        }

    def __str__(self) -> str:
        columns = ["layer", "shape", ">calls", ">MACs", ">share"]
        whole = self.cost.total.macs or 1
        rows = [
            [site.name, str(site.spec), f"{site.calls}", f"{site.macs:,}", f"{site.macs / whole:.1%}"]
            for site in self.sites
        ]
        found = sum(site.macs for site in self.sites)
        totals = [["all", "", "", f"{found:,}", f"{found / whole:.1%}"]]
        table = draw_table(columns, rows, title="Convolutions that can be rewritten (MACs counted)", totals=totals)
        return "\n".join([table, *(f"Skipped {entry.name}: {entry.reason}" for entry in self.skipped)])
