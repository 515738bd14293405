"""Measured times of layers. In: a timer, convolution chains. Out: seconds, each chain timed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from separable.graph.inference import Example, run
from separable.graph.sites import Site
from separable.nn.factorized import FactorizedConv
from separable.plan.candidates import Candidate
from separable.plan.stand_in import LAYOUTS, is_channels_last, laid_out
from separable.spec import ConvSpec

Timer = Callable[[nn.Module, Tensor], float]


class Stopwatch:
    """Asks a timer how long layers of a model take: alone, on random numbers of the right shape, dtype and layout."""

    def __init__(self, timer: Timer, model: nn.Module) -> None:
        self.timer = timer
        self.channels_last = is_channels_last(model)
        self.known: dict[tuple[Any, ...], float] = {}

    def model_s(self, model: nn.Module, example: Example) -> float:
        """Seconds of one forward of the whole model."""
        if isinstance(example, Tensor):
            return self.timer(model, example)
        return self.timer(_Bound(model, example), torch.zeros(1))

    def candidate_s(self, conv: nn.Module, site: Site, candidate: Candidate) -> float:
        """Seconds of all the calls of a site when it is written so, or as it is for ``keep``."""
        return sum(self._call_s(conv, site, candidate, spec) for spec in site.specs)

    def _call_s(self, conv: nn.Module, site: Site, candidate: Candidate, spec: ConvSpec) -> float:
        chain, weight = candidate.chain(spec), next(conv.parameters())
        bias = site.bias or not candidate.is_kept
        key = (chain, bias, site.padding_mode, site.batch, weight.dtype, weight.device)
        if key not in self.known:
            layer = FactorizedConv(
                spec,
                chain,
                family=candidate.family,
                rank=candidate.rank,
                bias=bias,
                padding_mode=site.padding_mode,
                device=weight.device,
                dtype=weight.dtype,
            )
            alone = layer.convs[0] if len(layer) == 1 else layer
            self.known[key] = self.timer(laid_out(alone, self.channels_last).eval(), self._input(site, spec, weight))
        return self.known[key]

    def _input(self, site: Site, spec: ConvSpec, like: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(site.batch, spec.c_in, *spec.size, generator=generator).to(like)
        return x.contiguous(memory_format=LAYOUTS[x.dim()]) if self.channels_last and x.dim() in LAYOUTS else x


class _Bound(nn.Module):
    """A model on an example that is not one tensor, in the form that a timer takes; the input is not looked at."""

    def __init__(self, model: nn.Module, example: Example) -> None:
        super().__init__()
        self.model = model
        self.example = example

    def forward(self, _: Tensor) -> Any:
        return run(self.model, self.example)
