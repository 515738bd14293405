"""One convolution in every form. In: its shape, ranks, a machine. Out: what each form costs; a page with sliders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from separable.cost import Cost, Machine, count, draw_table, predict
from separable.errors import SpecError
from separable.factor import FAMILIES, Rank
from separable.files import written_whole
from separable.plan.candidates import KEEP, Candidate
from separable.report.markup import element
from separable.report.page import assemble
from separable.spec import ConvSpec

# The largest of each: beyond them a product of all could pass 2⁵³, up to where the page's numbers are whole.
MOST = {"kernel": 31, "c_in": 4096, "c_out": 4096, "size": 512, "stride": 8, "rank": 4096, "terms": 961}
# What each form is called, and the family whose chain it is.
FORMS = {
    "dense": KEEP,
    "depthwise separable": "depthwise",
    **{name: name for name in ("spatial", "depthwise", "channel", "tucker")},
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A square convolution and how far to take it apart; padded, so that the output is ⌈size / stride⌉ along each axis.

    ``rank`` is for the families spatial, channel and tucker (both of its ranks), ``terms`` for depthwise; where the
    full rank of a family is less, that is taken. SpecError outside 1 to ``MOST``.
    """

    kernel: int = 3
    c_in: int = 128
    c_out: int = 128
    size: int = 28
    stride: int = 1
    rank: int = 48
    terms: int = 2

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST[field.name]:
                expected = f"a whole number from 1 to {MOST[field.name]}"
                raise SpecError(f"Setting.{field.name}", given=repr(value), expected=expected)

    @property
    def spec(self) -> ConvSpec:
        """The convolution; of the padding of an even kernel the odd element goes behind."""
        padding = (((self.kernel - 1) // 2, self.kernel // 2),) * 2
        return ConvSpec(self.c_in, self.c_out, (self.kernel,) * 2, (self.size,) * 2, self.stride, padding)

    def to_json(self) -> dict[str, int]:
        """Plain integers; ``Setting(**setting.to_json())`` gives the value back."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Form:
    """The convolution as a chain of others, costed for one float32 image; exact at the rank ``full``."""

    name: str
    candidate: Candidate
    full: Rank
    chain: tuple[ConvSpec, ...]
    cost: Cost
    predicted_s: float

    @property
    def label(self) -> str:
        """To read, with the rank where there was a choice."""
        exact = ", exact" if self.candidate.rank == self.full else ""
        return f"{self.candidate.label}{exact}" if self.name in FAMILIES else self.name

    @property
    def bytes(self) -> int:
        """Bytes of weights and activations that the passes read and write."""
        return self.cost.weight_bytes + self.cost.activation_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "rank": list(self.candidate.rank),
            "full": list(self.full),
            "chain": [spec.to_json() for spec in self.chain],
            **self.cost.to_json(),
            "predicted_s": self.predicted_s,
        }


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Every form of one convolution, dense first; ``refused`` has the reasons of those that there are not."""

    setting: Setting
    forms: tuple[Form, ...]
    refused: Mapping[str, str]
    machine: Machine

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "setting": self.setting.to_json(),
            "forms": [form.to_json() for form in self.forms],
            "refused": dict(self.refused),
            "machine": self.machine.to_json(),
        }

    def __str__(self) -> str:
        columns = ["form", "passes", ">parameters", ">MACs", ">bytes", ">MACs/B"]
        columns += [">predicted ms", ">× fewer MACs", ">× faster, predicted"]
        rows = [self._row(form) for form in self.forms]
        title = f"{self.setting.spec}, one float32 image. Parameters, MACs and bytes counted; time predicted for\n"
        reasons = [f"No {name}: {reason}" for name, reason in self.refused.items()]
        return "\n".join([draw_table(columns, rows, title=f"{title}{self.machine}."), *reasons])

    def _row(self, form: Form) -> list[str]:
        dense, cost = self.forms[0], form.cost
        return [
            form.label,
            ", ".join(f"{'×'.join(map(str, part.kernel))}{_kind(part)} to {part.c_out}" for part in form.chain),
            *(f"{number:,}" for number in (cost.parameters, cost.macs, form.bytes)),
            f"{cost.macs_per_byte:.1f}",
            f"{form.predicted_s * 1e3:.4g}",
            f"{dense.cost.macs / cost.macs:.2f}",
            f"{dense.predicted_s / form.predicted_s:.2f}",
        ]


def explain(setting: Setting, machine: Machine) -> Explanation:
    """Each form of the convolution, counted, and predicted by the roofline of ``machine``, pass by pass.

    >>> machine = Machine(name="m", cores=1, threads=1, instruction_sets=(), fma_per_s=1e11, bytes_per_s=1e10)
    >>> setting = Setting(c_in=512, c_out=512, size=14, rank=256, terms=4)
    >>> [(form.name, form.cost.macs) for form in explain(setting, machine).forms][:4]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('dense', 462422016), ('depthwise separable', 52283392), ('spatial', 154140672), ('depthwise', 209133568)]
    """
    forms, refused = [], {}
    for name, family in FORMS.items():
        reason = None if family == KEEP else FAMILIES[family].refuses(setting.spec)
        if reason is None:
            forms.append(_form(name, family, setting, machine))
        else:
            refused[name] = reason
    return Explanation(setting=setting, forms=tuple(forms), refused=refused, machine=machine)


def write_explainer(setting: Setting, machine: Machine, path: str | os.PathLike[str]) -> None:
    """Write one HTML page that starts at ``setting`` and counts as it is moved; it needs no network.

    Raises FileError where it cannot be written.
    """
    explanation = explain(setting, machine)
    given = {
        "setting": setting.to_json(),
        "most": MOST,
        "machine": {name: getattr(machine, name) for name in ("name", "threads", "fma_per_s", "bytes_per_s")},
    }
    page = assemble("explain", given, "explain.css", table=element("pre", str(explanation)))
    with written_whole(path) as part:
        part.write_text(page, encoding="utf-8")


def _form(name: str, family: str, setting: Setting, machine: Machine) -> Form:
    spec = setting.spec
    full = () if family == KEEP else FAMILIES[family].ranks(spec)
    wanted = {"depthwise separable": 1, "depthwise": setting.terms}.get(name, setting.rank)
    candidate = Candidate(family=family, rank=tuple(min(wanted, most) for most in full))
    chain = candidate.chain(spec)
    return Form(
        name=name,
        candidate=candidate,
        full=full,
        chain=chain,
        cost=sum(map(count, chain), Cost()),
        predicted_s=sum(predict(part, machine).seconds for part in chain),
    )


def _kind(spec: ConvSpec) -> str:
    return " depthwise" if spec.groups > 1 else ""
