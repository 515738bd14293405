"""What each candidate does to the outputs. In: a model, sites, inputs. Out: errors, and what arrives outside."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from separable.errors import DataError, ModelError
from separable.factor.factors import Factors
from separable.factor.families import FAMILIES
from separable.factor.fit import Fitted, fit_each
from separable.factor.moments import Moments
from separable.graph.inference import Example, evaluating, outputs, run
from separable.graph.sites import Site
from separable.graph.trace import conv_at
from separable.plan.candidates import Candidate
from separable.plan.stand_in import stand_in

Candidates = Sequence[tuple[Site, Sequence[Candidate]]]
Advance = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much work the errors may be.

    ``only_faster``, for a plan under a limit on latency, leaves out candidates that did not measure faster than the
    layer as it is, but for the fastest of them where none did.

    On data, about ``samples`` inputs (whole batches) are used for the errors, and ``outside`` of them for what arrives
    in the output. ``sweeps`` of alternating least squares are done for each candidate. The second moments of as many
    sites as fit into ``moment_bytes`` are gathered in one pass over the data.
    """

    only_faster: bool = False
    samples: int = 256
    outside: int = 64
    sweeps: int = 1
    moment_bytes: int = 2 << 30


@dataclass(frozen=True, kw_only=True)
class Response:
    """The errors of a site's candidates, ``keep`` first, and how much of the layer's error the output shows."""

    errors: tuple[float, ...]
    sensitivity: float = 1.0


def weight_responses(model: nn.Module, candidates: Candidates, advance: Advance) -> list[Response]:
    """The relative squared errors of the weights: for these no data is needed."""
    found = []
    for site, options in candidates:
        errors = [factors.error for factors in _factorized(model, site, options)]
        found.append(Response(errors=(0.0, *errors)))
        advance()
    return found


def data_responses(
    model: nn.Module, candidates: Candidates, data: Iterable[Example], effort: Effort, advance: Advance
) -> tuple[list[Response], int]:
    """The errors that the candidates leave in their layer's centred output when each is fitted to the data.

    The sensitivity is measured with the candidate of the middling error: alone in the model, fitted, how large is the
    relative squared error of the model's output for each one of the layer's. Also gives the number of samples used.
    """
    if iter(data) is data:
        raise DataError("price", given="an iterator, which can be read once", expected="batches that can be read again")
    found = []
    samples = 0
    with evaluating(model):
        wanted = _wanted(model, data, effort.outside)
        for group in _groups(candidates, effort.moment_bytes):
            with_choice = [site for site, options in group if len(options) > 1]
            moments, samples = _gather(model, with_choice, data, effort.samples)
            for site, options in group:
                fitted: Sequence[Fitted] = ()
                if site.name in moments:
                    factors = _factorized(model, site, options)
                    fitted = fit_each(factors, moments.pop(site.name), sweeps=effort.sweeps)
                found.append(_response(model, site, fitted, wanted))
                advance()
    return found, samples


def _factorized(model: nn.Module, site: Site, options: Sequence[Candidate]) -> list[Factors]:
    """The factors of every candidate after ``keep``; one decomposition for all ranks of a family."""
    weight = conv_at(model, site.name).weight
    found: list[Factors] = []
    for family, group in groupby(options[1:], key=lambda option: option.family):
        found += FAMILIES[family].factorize_each(weight, site.spec, [option.rank for option in group])
    return found


def _groups(candidates: Candidates, moment_bytes: int) -> Iterator[Candidates]:
    """The sites in order, as many at a time as fit; sites without a choice take no room."""
    group: list[tuple[Site, Sequence[Candidate]]] = []
    room = moment_bytes
    for site, options in candidates:
        needed = _moment_bytes(site) if len(options) > 1 else 0
        if group and needed > room:
            yield group
            group, room = [], moment_bytes
        group.append((site, options))
        room -= needed
    if group:
        yield group


def _moment_bytes(site: Site) -> int:
    """Second moments in float64: inputs by inputs and inputs by outputs, for each group."""
    spec = site.spec
    inputs = spec.c_in // spec.groups * math.prod(spec.kernel)
    return 8 * spec.groups * inputs * (inputs + spec.c_out // spec.groups)


def _gather(
    model: nn.Module, sites: Sequence[Site], data: Iterable[Example], limit: int
) -> tuple[dict[str, Moments], int]:
    """The moments of every site over one pass of the model, and the number of samples."""
    moments = {site.name: Moments(site.spec, padding_mode=site.padding_mode) for site in sites}
    samples = 0
    with _overheard(model, {name: each.update_ for name, each in moments.items()}):
        for _, answers in _answers(model, data, limit):
            samples += _rows(answers)
    return moments, samples


def _answers(model: nn.Module, data: Iterable[Example], limit: int) -> Iterator[tuple[Example, tuple[Tensor, ...]]]:
    """Batches with what the model answers, until ``limit`` samples are reached; ``DataError`` when there are none."""
    samples = 0
    for example in data:
        answers = outputs(run(model, example))
        if not answers or not all(bool(answer.isfinite().all()) for answer in answers):
            raise ModelError("price", given="outputs that are NaN, infinite or no numbers", expected="finite outputs")
        yield example, answers
        samples += _rows(answers)
        if samples >= limit:
            return
    if not samples:
        raise DataError("price", given="no batches", expected="inputs for the model")


def _rows(answers: tuple[Tensor, ...]) -> int:
    return len(answers[0]) if answers[0].dim() else 1


def _wanted(model: nn.Module, data: Iterable[Example], limit: int) -> list[tuple[Example, tuple[Tensor, ...]]]:
    return [(example, tuple(a.clone() for a in answers)) for example, answers in _answers(model, data, limit)]


def _response(
    model: nn.Module, site: Site, fitted: Sequence[Fitted], wanted: Sequence[tuple[Example, tuple[Tensor, ...]]]
) -> Response:
    errors = (0.0, *(each.error for each in fitted))
    wrong = sorted((each for each in fitted if each.error > 0), key=lambda each: each.error)
    if not wrong:
        return Response(errors=errors)
    middling = wrong[len(wrong) // 2]
    conv = conv_at(model, site.name)
    layer = stand_in(conv, middling.factors, middling.bias)
    gone = energy = 0.0
    with _replaced(conv, layer):
        for example, answers in wanted:
            for y, y_other in zip(answers, outputs(run(model, example)), strict=True):
                gone += float((y.double() - y_other.double()).square().sum())
                energy += float(y.double().square().sum())
    return Response(errors=errors, sensitivity=gone / energy / middling.error if energy else 1.0)


@contextmanager
def _overheard(model: nn.Module, listeners: dict[str, Callable[[Tensor, Tensor], None]]) -> Iterator[None]:
    """Inside the block each listener is given the input and output of every call of its layer."""

    def hook(listener: Callable[[Tensor, Tensor], None]) -> Callable[..., None]:
        return lambda _, args, kwargs, y: listener(_input(args, kwargs), y)

    handles = [
        conv_at(model, name).register_forward_hook(hook(listener), with_kwargs=True)
        for name, listener in listeners.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _replaced(conv: nn.Module, layer: nn.Module) -> Iterator[None]:
    """Inside the block the layer answers in the place of the convolution."""
    handle = conv.register_forward_hook(lambda _, args, kwargs, __: layer(_input(args, kwargs)), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x: Tensor = args[0] if args else kwargs["input"]
    return x
