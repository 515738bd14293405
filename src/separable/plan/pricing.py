"""Every candidate of every site priced. In: a model, its sites; a timer and data where there are some. Out: prices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from torch import nn

from separable.cost.machine import Machine, this_machine
from separable.cost.roofline import predict
from separable.errors import ModelError
from separable.graph.inference import Example, evaluating
from separable.graph.sites import Site, Sites
from separable.graph.trace import conv_at
from separable.plan.candidates import Candidate, chain_macs, propose
from separable.plan.prices import Price, Prices, SitePrices, Totals
from separable.plan.responses import Advance, Candidates, Effort, data_responses, weight_responses
from separable.plan.stand_in import check_finite
from separable.plan.timing import Stopwatch, Timer
from separable.progress import Tell, told

Times = list[list[float | None]]
THOROUGH = Effort()

WEIGHTS_ONLY = (
    "Errors are those of the weights alone, and every layer counts the same: without data nothing shows which errors "
    "reach the output. Hand over inputs, unlabelled ones will do, for a better plan at the same cost."
)


def price(
    model: nn.Module,
    sites: Sites,
    *,
    example: Example | None = None,
    timer: Timer | None = None,
    data: Iterable[Example] | None = None,
    machine: Machine | None = None,
    effort: Effort = THOROUGH,
    progress: Tell = False,
) -> Prices:
    """What every candidate of every site costs and what error it causes; the model is left as it was.

    MACs and parameters are counted, and exact: those of the rewritten model. Times are predicted for ``machine`` (this
    one, when not given) and measured with ``timer``, called as ``timer(layer, input)`` for seconds: once for each
    different chain of convolutions, and once for the whole model on ``example``. With ``data``, batches that can be
    read several times, errors are those that fitting to the data leaves, and sensitivities are measured; without,
    errors are those of the weights.

    ``ModelError`` for weights that are not finite.
    """
    check_finite(model)
    machine = machine or this_machine()
    candidates: Candidates = [(site, propose(site)) for site in sites.sites]
    with told(progress, "pricing", len(candidates) * (2 if timer else 1)) as tell, evaluating(model):
        done = itertools.count(1)

        def advance() -> None:
            tell(next(done))

        measured, rest_s = _measure(model, candidates, timer, example, advance)
        if timer and effort.only_faster:
            candidates, measured = _worth_it(candidates, measured)
        if data is None:
            responses, samples = weight_responses(model, candidates, advance), 0
        else:
            responses, samples = data_responses(model, candidates, data, effort, advance)
    priced = []
    for (site, options), times, response in zip(candidates, measured, responses, strict=True):
        prices = [
            _price(site, option, machine, measured_s, error)
            for option, measured_s, error in zip(options, times, response.errors, strict=True)
        ]
        priced.append(SitePrices(site=site, prices=tuple(prices), sensitivity=response.sensitivity))
    rest = _rest(sites, machine, rest_s)
    return Prices(sites=tuple(priced), rest=rest, samples=samples, notes=() if samples else (WEIGHTS_ONLY,))


def _measure(
    model: nn.Module,
    candidates: Candidates,
    timer: Timer | None,
    example: Example | None,
    advance: Advance,
) -> tuple[Times, float | None]:
    """Seconds of every candidate, and of everything that is no site: the whole model without the sites, or nothing."""
    if timer is None:
        return [[None] * len(options) for _, options in candidates], None
    if example is None:
        raise ModelError("price", given="a timer and no example", expected="the example to time the model on")
    watch = Stopwatch(timer, model)
    measured: Times = []
    sites_s = 0.0
    for site, options in candidates:
        times = [watch.candidate_s(conv_at(model, site.name), site, option) for option in options]
        sites_s += times[0]
        measured.append(list(times))
        advance()
    return measured, max(watch.model_s(model, example) - sites_s, 0.0)


def _worth_it(candidates: Candidates, measured: Times) -> tuple[Candidates, Times]:
    """Each site as it is, the candidates that were faster, and the fastest of them where none was."""
    found: list[tuple[Site, Sequence[Candidate]]] = []
    times: Times = []
    for (site, options), seconds in zip(candidates, measured, strict=True):
        known = [math.inf if each is None else each for each in seconds]
        most = max(min(known[1:], default=0.0), math.nextafter(known[0], 0.0))
        picked = [index for index, each in enumerate(known) if index == 0 or each <= most]
        found.append((site, [options[index] for index in picked]))
        times.append([seconds[index] for index in picked])
    return found, times


def _price(site: Site, candidate: Candidate, machine: Machine, measured_s: float | None, error: float) -> Price:
    return Price(
        candidate=candidate,
        macs=chain_macs(candidate, site),
        parameters=_parameters(site, candidate),
        predicted_s=sum(
            predict(part, machine, site.batch).seconds for spec in site.specs for part in candidate.chain(spec)
        ),
        measured_s=measured_s,
        error=error,
    )


def _parameters(site: Site, candidate: Candidate) -> int:
    """Trainable ones; a rewritten layer always has a bias."""
    weights = sum(part.weights for part in candidate.chain(site.spec))
    has_bias = site.bias or not candidate.is_kept
    return weights * site.weights_train + site.spec.c_out * (has_bias and site.bias_trains)


def _rest(sites: Sites, machine: Machine, measured_s: float | None) -> Totals:
    names = {site.name for site in sites.sites}
    layers = [layer for layer in sites.cost.layers if layer.name not in names]
    return Totals(
        macs=sum(layer.cost.macs for layer in layers),
        parameters=sum(layer.cost.parameters for layer in layers),
        predicted_s=sum(predict(layer, machine).seconds for layer in layers if layer.calls),
        measured_s=measured_s,
    )
