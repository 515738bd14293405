"""The decision. In: one candidate for each site, with prices and reasons. Out: a plan that prints, saves and loads."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from separable.cost.table import draw_table
from separable.errors import FileError, PlanError
from separable.files import written_whole
from separable.plan.candidates import Candidate
from separable.plan.prices import Price, Totals, cells, fingerprint, total
from separable.spec import Budget, ConvSpec

FORMAT = "separable plan, version 1"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What one convolution becomes, what that costs against keeping it, and why."""

    name: str
    spec: ConvSpec
    calls: int
    price: Price
    original: Price
    sensitivity: float
    why: str

    @property
    def candidate(self) -> Candidate:
        """How the convolution is written."""
        return self.price.candidate

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` gives the choice back."""
        parts = {"spec": self.spec.to_json(), "price": self.price.to_json(), "original": self.original.to_json()}
        return {"name": self.name, "calls": self.calls, "sensitivity": self.sensitivity, "why": self.why, **parts}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Choice:
        """The choice that ``to_json`` wrote. SpecError for a rank that the convolution does not have."""
        price, original = (Price.from_json(value[name]) for name in ("price", "original"))
        choice = cls(**{**value, "spec": ConvSpec(**value["spec"]), "price": price, "original": original})
        choice.candidate.chain(choice.spec)
        return choice


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One candidate for each convolution of a model under a budget; ``rest`` is everything else.

    ``samples`` is the number of inputs that the errors were measured on, 0 when they are those of the weights alone.
    """

    choices: tuple[Choice, ...]
    budget: Budget
    rest: Totals
    samples: int
    notes: tuple[str, ...] = ()

    @property
    def before(self) -> Totals:
        """The model as it is."""
        return total([self.rest, *(Totals.of(choice.original, choice.sensitivity) for choice in self.choices)])

    @property
    def after(self) -> Totals:
        """The model as the plan has it; ``error`` is the predicted error of the output, the sum over the layers."""
        return total([self.rest, *(Totals.of(choice.price, choice.sensitivity) for choice in self.choices)])

    @property
    def fingerprint(self) -> str:
        """The same for models whose convolutions have the same names and shapes."""
        return fingerprint((choice.name, choice.spec) for choice in self.choices)

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` gives the plan back. ``before`` and ``after`` are there to be read."""
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "budget": self.budget.to_json(),
            "samples": self.samples,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "rest": self.rest.to_json(),
            "choices": [choice.to_json() for choice in self.choices],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, value: Any) -> Plan:
        """The plan that ``to_json`` wrote; ``PlanError`` for anything else."""
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise PlanError("plan", given="something else", expected=f"JSON with the format {FORMAT!r}")
        try:
            plan = cls(
                choices=tuple(map(Choice.from_json, value["choices"])),
                budget=Budget(**value["budget"]),
                rest=Totals(**value["rest"]),
                samples=value["samples"],
                notes=tuple(value["notes"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            remedy = "Make the plan anew."
            raise PlanError("plan", given=f"{error}", expected="a plan as it was saved", remedy=remedy) from error
        if plan.fingerprint != value.get("fingerprint"):
            raise PlanError("plan", given="edited names or shapes", expected=f"those of {value['fingerprint']}")
        return plan

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON, whole or not at all; ``FileError`` where that cannot be."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n"
        with written_whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """The plan in a file; ``FileError`` when it cannot be read, ``PlanError`` when it holds no plan."""
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise FileError(os.fspath(path), given=error.strerror or error, expected="a plan that was saved") from error
        except ValueError as error:
            raise PlanError(os.fspath(path), given=f"no JSON ({error})", expected="a plan that was saved") from error
        return cls.from_json(value)

    def __str__(self) -> str:
        columns = [
            "layer",
            "shape",
            "becomes",
            ">MACs",
            ">parameters",
            ">predicted ms",
            ">measured ms",
            ">error",
            "why",
        ]
        rows = [
            [choice.name, str(choice.spec), choice.candidate.label, *_both(choice.original, choice.price), choice.why]
            for choice in self.choices
        ]
        before, after = self.before, self.after
        totals = [["the rest", "", "", *cells(self.rest), ""], ["all", "", "", *_both(before, after), ""]]
        title = (
            f"Plan for {self.budget}: MACs and parameters counted, times predicted and measured, errors {self._source}"
        )
        return "\n".join([draw_table(columns, rows, title=title, totals=totals), *self.notes])

    @property
    def _source(self) -> str:
        return f"measured on {self.samples} inputs" if self.samples else "of the weights alone"


def _both(before: Price | Totals, after: Price | Totals) -> list[str]:
    """Each number before and after; the error, which was none before, once."""
    *numbers, error = cells(after)
    pairs = zip(cells(before), numbers, strict=False)
    return [*(new if old == new else f"{old} → {new}" for old, new in pairs), error]
