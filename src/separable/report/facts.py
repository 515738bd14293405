"""What a report says, as plain values. In: numbers and text from the stages. Out: frozen facts, JSON both ways.

``None`` means "not known" and shows as a dash; a number that is not finite is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from separable.errors import DataError
from separable.report.numbers import amount, duration, ratio
from separable.spec import Budget

VERDICTS = ("faster", "slower", "unclear")


class _Fact:
    """Checks a fact's numbers when it is made, and takes it to JSON and back."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, float) and not math.isfinite(number):
                    raise DataError(
                        f"{type(self).__name__}.{name}", given=number, expected="a finite number, or None for none"
                    )

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and text; ``from_json`` gives the value back."""
        return {name: _plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The fact that ``to_json`` wrote. Raises DataError where a field is missing, unknown or of the wrong type."""
        made: Self = _read(cls, value, cls.__name__)
        return made


@dataclass(frozen=True, kw_only=True)
class Speedups(_Fact):
    """Before divided by after: MACs (counted), roofline time (predicted), time on the clock (measured)."""

    counted: float | None
    predicted: float | None
    measured: float | None


@dataclass(frozen=True, kw_only=True)
class Latency(_Fact):
    """Measured time of one forward of the whole network, with every sample that was taken."""

    median_s: float
    spread_s: float
    samples_s: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Network(_Fact):
    """The whole network, before or after."""

    macs: int
    parameters: int
    weight_bytes: int
    predicted_s: float | None = None
    measured: Latency | None = None


@dataclass(frozen=True, kw_only=True)
class Elsewhere(_Fact):
    """Measured time of the two networks on another engine than the one that was planned for."""

    engine: str
    before: Latency
    after: Latency
    verdict: str

    @property
    def speedup(self) -> float | None:
        """Before divided by after."""
        return _quotient(self.before.median_s, self.after.median_s)


@dataclass(frozen=True, kw_only=True)
class Metric(_Fact):
    """A measured quality such as accuracy; ``is_share`` says that 0.978 means 97.8 %."""

    name: str
    before: float
    after: float
    is_share: bool = True


@dataclass(frozen=True, kw_only=True)
class Option(_Fact):
    """One way to write a layer, as it was priced; family ``keep`` is the layer as it was.

    Costs are for all calls of the layer in one forward. ``error`` is a relative squared error: the share of the
    output's energy that is lost.
    """

    family: str
    rank: tuple[int, ...] = ()
    macs: int
    parameters: int
    predicted_s: float | None = None
    measured_s: float | None = None
    error: float | None = None

    @property
    def label(self) -> str:
        """The family and its rank, to read.

        >>> Option(family="tucker", rank=(16, 24), macs=1, parameters=1).label
        'tucker 16, 24'
        """
        return f"{self.family} {', '.join(map(str, self.rank))}".strip()

    def over(self, other: Option) -> Speedups:
        """How much cheaper this option is than ``other``."""
        return Speedups(
            counted=_quotient(other.macs, self.macs),
            predicted=_quotient(other.predicted_s, self.predicted_s),
            measured=_quotient(other.measured_s, self.measured_s),
        )


@dataclass(frozen=True, kw_only=True)
class Layer(_Fact):
    """One convolution: what it was, what it became and why, and everything that was considered.

    ``fit_error_before`` and ``fit_error_after`` are the layer's error on data before and after calibration.
    """

    name: str
    spec: str
    calls: int = 1
    before: Option
    after: Option
    why: str = ""
    options: tuple[Option, ...] = ()
    sensitivity: float | None = None
    fit_error_before: float | None = None
    fit_error_after: float | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the layer is as it was."""
        return self.after.family == "keep"

    @property
    def speedups(self) -> Speedups:
        """What the rewriting of this layer gave."""
        return self.after.over(self.before)


@dataclass(frozen=True, kw_only=True)
class Skipped(_Fact):
    """A layer that was never a candidate, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Distillation(_Fact):
    """The loss after each of some steps, in order."""

    steps: tuple[int, ...]
    losses: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.steps) != len(self.losses):
            raise DataError("Distillation.losses", given=len(self.losses), expected=f"{len(self.steps)}, one a step")


@dataclass(frozen=True, kw_only=True)
class Machine(_Fact):
    """The processor on which times were predicted and measured; ``fma_per_s`` is in multiply-accumulates."""

    name: str
    cores: int
    instruction_sets: tuple[str, ...] = ()
    fma_per_s: float | None = None
    bytes_per_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Facts(_Fact):
    """Everything that the page shows.

    ``verdict`` compares the measured latencies: faster, slower or unclear. ``output_error`` is the finished network's
    relative squared error against the original, ``planned_error`` the layers' sum as the plan predicted it,
    ``same_top1`` the share of inputs with the same top answer, ``inputs`` the number of calibration inputs (0: weights
    only). ``date`` is text: nothing here reads a clock.
    """

    model: str
    input: str
    batch: int
    threads: int
    engine: str
    before: Network
    after: Network
    machine: Machine
    elsewhere: tuple[Elsewhere, ...] = ()
    layers: tuple[Layer, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    unknown: tuple[str, ...] = ()
    verdict: str | None = None
    output_error: float | None = None
    planned_error: float | None = None
    same_top1: float | None = None
    metrics: tuple[Metric, ...] = ()
    budget: Budget | None = None
    distillation: Distillation | None = None
    inputs: int = 0
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    date: str = ""
    seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.verdict is not None and self.verdict not in VERDICTS:
            raise DataError(
                "Facts.verdict", given=repr(self.verdict), expected=f"one of {', '.join(VERDICTS)}, or None"
            )

    @property
    def speedups(self) -> Speedups:
        """Theory beside practice for the whole network."""
        was, now = self.before.measured, self.after.measured
        return Speedups(
            counted=_quotient(self.before.macs, self.after.macs),
            predicted=_quotient(self.before.predicted_s, self.after.predicted_s),
            measured=_quotient(was.median_s, now.median_s) if was and now else None,
        )

    def __str__(self) -> str:
        before, after, gain = self.before, self.after, self.speedups
        lines = [f"{self.model}: MACs {amount(before.macs)} → {amount(after.macs)}, counted {ratio(gain.counted)}"]
        if before.measured and after.measured:
            times = f"{duration(before.measured.median_s)} → {duration(after.measured.median_s)}"
            lines.append(f"latency {times}, measured {ratio(gain.measured)} ({self.verdict or 'no verdict'})")
        return "; ".join(lines)


def _quotient(before: float | None, after: float | None) -> float | None:
    """None where either is unknown or not above zero: a ratio to nothing says nothing."""
    return before / after if before and after and before > 0 and after > 0 else None


def _plain(value: Any) -> Any:
    if isinstance(value, _Fact | Budget):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return dict(value) if isinstance(value, Mapping) else value


def _read(kind: Any, value: Any, where: str) -> Any:
    """``value`` from JSON as the annotated type ``kind``."""
    if isinstance(kind, UnionType):
        return None if value is None else _read(get_args(kind)[0], value, where)
    if get_origin(kind) is tuple:
        entries = _expect(list, value, where)
        return tuple(_read(get_args(kind)[0], entry, f"{where}[{i}]") for i, entry in enumerate(entries))
    if get_origin(kind) is Mapping:
        return {key: _expect(str, text, f"{where}.{key}") for key, text in _expect(dict, value, where).items()}
    if kind is Budget:
        return Budget(**_expect(dict, value, where))
    if is_dataclass(kind):
        return _read_fact(kind, _expect(dict, value, where), where)
    return float(_expect(int | float, value, where)) if kind is float else _expect(kind, value, where)


def _read_fact(kind: Any, value: Mapping[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    if wrong := sorted((needed - set(value)) | (set(value) - set(hints))):
        raise DataError(where, given=f"{', '.join(wrong)} missing or unknown", expected=f"fields {', '.join(hints)}")
    return kind(**{name: _read(hints[name], entry, f"{where}.{name}") for name, entry in value.items()})


def _expect(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise DataError(where, given=repr(value), expected=getattr(kind, "__name__", str(kind)))
    return value
