"""A plan carried out. In: a model and a plan made for it. Out: a new model in which the layers are as the plan says."""

from __future__ import annotations

import difflib

from torch import nn

from separable.errors import PlanError
from separable.factor.families import FAMILIES
from separable.graph.replace import replace
from separable.graph.trace import conv_at, why_not
from separable.nn.factorized import CONVS, spec_of
from separable.plan.plan import Choice, Plan
from separable.plan.stand_in import check_finite, is_channels_last, laid_out, stand_in

REMEDY = "Make a plan for this model."


def rewrite(model: nn.Module, plan: Plan) -> nn.Module:
    """A new model with the plan's factorized layers, nearest to the original weights; the model stays untouched.

    Mode, dtype, device, memory layout and which weights train are as in the model. ``PlanError`` names the first layer
    that is not as the plan has it, ``ModelError`` a parameter that is not finite.
    """
    check_finite(model)
    for choice in plan.choices:
        _check(model, choice)
    channels_last = is_channels_last(model)
    changed = [choice for choice in plan.choices if not choice.candidate.is_kept]
    return replace(model, {choice.name: laid_out(_layer(model, choice), channels_last) for choice in changed})


def _layer(model: nn.Module, choice: Choice) -> nn.Module:
    conv, candidate = conv_at(model, choice.name), choice.candidate
    return stand_in(conv, FAMILIES[candidate.family].factorize(conv.weight, choice.spec, candidate.rank))


def _check(model: nn.Module, choice: Choice) -> None:
    modules = dict(model.named_modules(remove_duplicate=False))
    module = modules.get(choice.name)
    if module is None:
        near = ", ".join(difflib.get_close_matches(choice.name, modules, n=3))
        remedy = f"{REMEDY} Nearest names: {near}." if near else REMEDY
        raise PlanError(choice.name, given="a model without this layer", expected=str(choice.spec), remedy=remedy)
    if not isinstance(module, CONVS):
        given = f"a {type(module).__name__}"
        raise PlanError(choice.name, given=given, expected=f"a convolution {choice.spec}", remedy=REMEDY)
    found = spec_of(module, choice.spec.size)
    if found != choice.spec:
        raise PlanError(choice.name, given=str(found), expected=str(choice.spec), remedy=REMEDY)
    reason = None if choice.candidate.is_kept else why_not(model, choice.name)
    if reason is not None:
        raise PlanError(choice.name, given=reason, expected=f"a plain convolution {choice.spec}", remedy=REMEDY)
