"""Training that can stop and go on. In: something that learns from batches, step by step. Out: it, at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from separable.errors import ModelError
from separable.files import checked_writable
from separable.progress import Tell, told
from separable.tune.batch import Batch
from separable.tune.checkpoint import load_checkpoint, save_checkpoint
from separable.tune.processes import place, told_by_first
from separable.tune.randomness import randomness


class Learner(Protocol):
    """A training at a step."""

    step: int
    device: torch.device

    def advance_(self, batch: Batch) -> None:
        """One step."""

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on. Randomness depends on the number of the step, and has no state."""

    def resume_(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """So many steps, shown as ``title``, with a state in ``checkpoint`` every so many of them and after the last.

    Exact: on a CPU a run that goes on from its file comes to the same weights, bit by bit, as one that never stopped.
    Only the first of several processes writes and shows progress.
    """

    title: str
    steps: int
    seed: int
    checkpoint: str | Path | None
    checkpoint_every: int
    progress: Tell

    def carry_out_(self, learner: Learner, name: Callable[[], str], stream: Callable[[int], Iterator[Batch]]) -> None:
        """Take the learner to the last step.

        ``name`` is that of the run in its file; ``stream`` gives the batches from a step on. ``FileError`` for a
        checkpoint that cannot be written, is damaged, or is of a run of another name.
        """
        rank, _ = place()
        path, given = None, self.checkpoint
        if given is not None:
            path = told_by_first(lambda: checked_writable(given))
            called = name()
            state = told_by_first(lambda: load_checkpoint(path, called))
            if state is not None:
                learner.resume_(state)
        batches = stream(learner.step)
        with told(self.progress if rank == 0 else False, self.title, self.steps) as tell:
            while learner.step < self.steps:
                with randomness(learner.device, self.seed, learner.step, rank):
                    learner.advance_(next(batches))
                is_due = learner.step % self.checkpoint_every == 0 or learner.step == self.steps
                if path is not None and is_due and rank == 0:
                    save_checkpoint(path, called, learner.state())
                tell(learner.step)


def check_finite(where: str, values: Sequence[float], step: int, what: str = "loss") -> None:
    """``ModelError`` unless all are finite."""
    if not all(map(math.isfinite, values)):
        given = f"a {what} of {values[0]} at step {step}"
        remedy = "Lower learning_rate." if step else "Look for what is not finite in the weights, inputs or targets."
        raise ModelError(where, given=given, expected=f"a finite {what}", remedy=remedy)
