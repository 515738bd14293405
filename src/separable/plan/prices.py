"""What each way to write a convolution costs. In: counted, predicted, measured numbers. Out: frozen prices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Any

from separable.cost.table import draw_table
from separable.graph.sites import Site
from separable.plan.candidates import Candidate
from separable.spec import ConvSpec


@dataclass(frozen=True, kw_only=True)
class Price:
    """What one candidate costs in one forward, all calls and the batch included, and the error that it causes.

    ``macs`` and ``parameters`` are counted, ``predicted_s`` is the roofline's, ``measured_s`` the timer's (None: there
    was none). ``error`` is a relative squared error: of the layer's centred output on the data, or of the weight.
    """

    candidate: Candidate
    macs: int
    parameters: int
    predicted_s: float
    measured_s: float | None
    error: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` gives the price back."""
        return asdict(self) | {"candidate": [self.candidate.family, *self.candidate.rank]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Price:
        """The price that ``to_json`` wrote."""
        family, *rank = value["candidate"]
        return cls(**{**value, "candidate": Candidate(family=family, rank=tuple(rank))})


@dataclass(frozen=True, kw_only=True)
class SitePrices:
    """Every candidate of one site with its price, ``keep`` first.

    ``sensitivity`` is how much of the layer's error arrives in the model's output: relative squared error of the output
    for one of the layer. 1 where it was not measured.
    """

    site: Site
    prices: tuple[Price, ...]
    sensitivity: float = 1.0

    @property
    def original(self) -> Price:
        """The price of keeping the layer."""
        return self.prices[0]


@dataclass(frozen=True, kw_only=True)
class Totals:
    """A sum over layers, or over a whole model; sums add up with ``+``. Measured only where every part is."""

    macs: int = 0
    parameters: int = 0
    predicted_s: float = 0.0
    measured_s: float | None = 0.0
    error: float = 0.0

    @classmethod
    def of(cls, price: Price, sensitivity: float) -> Totals:
        """One layer's part; its error as it arrives in the output."""
        numbers = {name: getattr(price, name) for name in ("macs", "parameters", "predicted_s", "measured_s")}
        return cls(**numbers, error=sensitivity * price.error)

    def __add__(self, other: Totals) -> Totals:
        has_times = self.measured_s is not None and other.measured_s is not None
        return Totals(
            macs=self.macs + other.macs,
            parameters=self.parameters + other.parameters,
            predicted_s=self.predicted_s + other.predicted_s,
            measured_s=(self.measured_s or 0.0) + (other.measured_s or 0.0) if has_times else None,
            error=self.error + other.error,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; ``Totals(**totals.to_json())`` gives the value back."""
        return asdict(self)


def total(parts: Iterable[Totals]) -> Totals:
    """The sum of all parts."""
    return reduce(add, parts, Totals())


@dataclass(frozen=True, kw_only=True)
class Prices:
    """All prices of a model: its sites, and ``rest``, everything that stays as it is.

    ``samples`` is the number of inputs that the errors were measured on, 0 when they are those of the weights alone.
    ``notes`` say what the numbers do not.
    """

    sites: tuple[SitePrices, ...]
    rest: Totals
    samples: int = 0
    notes: tuple[str, ...] = ()

    @property
    def original(self) -> Totals:
        """The whole model as it is: the rest and every site kept."""
        return total([self.rest, *(Totals.of(entry.original, entry.sensitivity) for entry in self.sites)])

    @property
    def is_measured(self) -> bool:
        """Whether every price has a measured time."""
        times = [price.measured_s for entry in self.sites for price in entry.prices]
        return None not in (*times, self.rest.measured_s)

    @property
    def fingerprint(self) -> str:
        """The same for models whose convolutions have the same names and shapes."""
        return fingerprint((entry.site.name, entry.site.spec) for entry in self.sites)

    def __str__(self) -> str:
        columns = ["layer", "candidate", ">MACs", ">parameters", ">predicted ms", ">measured ms", ">error"]
        rows = [
            [entry.site.name if price.candidate.is_kept else "", price.candidate.label, *cells(price)]
            for entry in self.sites
            for price in entry.prices
        ]
        title = "MACs and parameters counted, times predicted and measured, error relative and squared"
        return "\n".join([draw_table(columns, rows, title=title), *self.notes])


def cells(price: Price | Totals) -> list[str]:
    """MACs, parameters, predicted and measured milliseconds, and error, to read."""
    measured = "—" if price.measured_s is None else f"{price.measured_s * 1e3:.3f}"
    return [
        f"{price.macs:,}",
        f"{price.parameters:,}",
        f"{price.predicted_s * 1e3:.3f}",
        measured,
        f"{price.error:.2g}",
    ]


def fingerprint(sites: Iterable[tuple[str, ConvSpec]]) -> str:
    """16 hexadecimal digits for names and shapes, in order."""
    text = json.dumps([[name, spec.to_json()] for name, spec in sites], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
