"""Learning from labels. In: a model, batches of inputs and targets, options. Out: a trained model and how it went."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only

from separable.errors import ModelError, SeparableError
from separable.graph.inference import evaluating
from separable.progress import Tell
from separable.tune.average import Average
from separable.tune.batch import Batch
from separable.tune.batch_norm import re_estimate_
from separable.tune.checkpoint import fingerprint
from separable.tune.classify import cross_entropy
from separable.tune.feed import Feed, Feedable, feed_of
from separable.tune.joint_norm import join_norms_
from separable.tune.optimizer import make_optimizer
from separable.tune.options import TrainOptions
from separable.tune.processes import average_, place, told_by_first
from separable.tune.randomness import randomness
from separable.tune.run import Run, check_finite

Criterion = Callable[[Any, Any], Tensor]
Evaluate = Callable[[nn.Module], float]
STATISTICS_SAMPLES = 2048  # for the batch norms, at the end


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model in evaluation mode, the loss of every step, and what ``evaluate`` gave after every epoch."""

    model: nn.Module
    history: tuple[float, ...]
    evaluations: tuple[float, ...]
    steps_per_epoch: int

    @property
    def losses(self) -> tuple[float, ...]:
        """The mean loss of every epoch."""
        starts = range(0, len(self.history), self.steps_per_epoch)
        return tuple(statistics.fmean(self.history[start : start + self.steps_per_epoch]) for start in starts)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, without the model."""
        return {
            "losses": list(self.losses),
            "evaluations": list(self.evaluations),
            "steps": len(self.history),
            "steps_per_epoch": self.steps_per_epoch,
        }

    def __str__(self) -> str:
        losses, found = self.losses, self.evaluations
        text = f"trained for {len(losses)} epochs of {self.steps_per_epoch} steps: "
        text += f"mean loss {losses[0]:.4g} in the first, {losses[-1]:.4g} in the last"
        return text + (f"; evaluated {found[0]:.4g} after the first, {found[-1]:.4g} at the end" if found else "")


@torch.enable_grad()
def train(
    model: nn.Module,
    batches: Feedable,
    loss: Criterion = cross_entropy,
    options: TrainOptions | None = None,
    *,
    evaluate: Evaluate | None = None,
    checkpoint: str | Path | None = None,
    progress: Tell = True,
) -> Trained:
    """Train a copy of the model so that ``loss(outputs, targets)``, a mean over the samples, becomes small.

    ``batches`` are pairs (inputs, targets): inputs are a tensor (n, ...), a tuple of the model's arguments or a dict of
    them by name, targets whatever the loss takes. They come in labelled ``Batches``, a list or a DataLoader, all in a
    new order each epoch, in any other re-iterable, or from a function of the epoch's number, which returns one: the way
    to augment. ``evaluate`` is asked about the model in evaluation mode after every epoch. With ``checkpoint`` the run
    is saved there every so many steps, and goes on from there when the file exists; on a CPU it then comes to the same
    weights, bit by bit, as a run that was never stopped. For that, what random numbers the data draw must be the global
    ones of torch, NumPy or Python, and not drawn in a worker of ``Batches``.

    Within a ``process_group`` every batch is shared among the processes and all come to the same weights; only the
    first one writes, evaluates and shows progress. ``DataError`` for data that do not fit, ``FileError`` for a
    checkpoint of another run, ``ModelError`` when the loss is no longer finite.
    """
    options = options or TrainOptions()
    feed = feed_of(batches, options.seed)
    rank, processes = place()
    learner = _Training(model, _smoothed(loss, options), feed.steps, evaluate, options)
    Run(
        title="training",
        steps=options.epochs * feed.steps,
        seed=options.seed,
        checkpoint=checkpoint,
        checkpoint_every=options.checkpoint_every,
        progress=progress,
    ).carry_out_(
        learner,
        lambda: _name(model, feed, options, getattr(loss, "__qualname__", type(loss).__name__), evaluate is None),
        lambda step: feed.batches(step, rank=rank, processes=processes),
    )
    trained = learner.result()
    if options.re_estimate:
        with randomness(learner.device, options.seed, "last"):
            re_estimate_(trained, _limited(feed.epoch(0), STATISTICS_SAMPLES))
    if evaluate is not None:
        learner.evaluations.append(_evaluated(evaluate, trained))
    return Trained(
        model=trained,
        history=tuple(learner.history),
        evaluations=tuple(learner.evaluations),
        steps_per_epoch=feed.steps,
    )


class _Training:
    """A training at a step."""

    def __init__(
        self, model: nn.Module, loss: Criterion, steps: int, evaluate: Evaluate | None, options: TrainOptions
    ) -> None:
        _check_weights(model)
        self.options, self.steps, self.evaluate = options, steps, evaluate
        self.step = 0
        self.history: list[float] = []
        self.evaluations: list[float] = []
        self.given = model
        self.model = join_norms_(copy.deepcopy(model)).train()
        self.device = next(self.model.parameters(), torch.empty(0)).device
        self.average = Average(self.model, options.average_decay)
        self.optimizer = make_optimizer(
            self.model, options.optimizer, learning_rate=options.learning_rate, weight_decay=options.weight_decay
        )
        self.objective: nn.Module = _Objective(self.model, loss, options.precision)
        _, processes = place()
        if processes > 1:
            # A static graph, because a model may have weights that its output does not depend on.
            self.objective = DistributedDataParallel(self.objective, static_graph=True)

    def state(self) -> dict[str, Any]:
        """As the learner's protocol says."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "evaluations": self.evaluations,
        }

    def resume_(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.step, self.history, self.evaluations = state["step"], state["history"], state["evaluations"]
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])

    def advance_(self, batch: Batch) -> None:
        """One step, and an evaluation where an epoch ends that is not the last."""
        steps = self.options.epochs * self.steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate_at(self.step, steps)
        try:
            loss = self.objective(batch.to(self.device))
        except SeparableError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            given = f"{error} (inputs {', '.join(str(list(tensor.shape)) for tensor in batch.inputs)})"
            expected = "a batch that the model and the loss can take"
            raise ModelError(f"train, step {self.step}", given=given, expected=expected) from error
        row = average_(loss.detach().reshape(1)).tolist()
        check_finite("train", row, self.step)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)
        check_finite("train", [float(norm)], self.step, "gradient")
        self.optimizer.step()
        self.history += row
        self.step += 1
        if self.options.average_decay:
            self.average.follow_(self.model, self.step)
        if self.evaluate is not None and self.step % self.steps == 0 and self.step < steps:
            self.evaluations.append(_evaluated(self.evaluate, self.result()))

    def result(self) -> nn.Module:
        """The model as it is now, averaged if that was asked for, in evaluation mode."""
        trained = copy.deepcopy(self.given).eval()
        source = self.average.model if self.options.average_decay else self.model
        trained.load_state_dict(source.state_dict())
        return trained


class _Objective(nn.Module):
    """The model and its loss in one forward, which is what DistributedDataParallel has to see."""

    def __init__(self, model: nn.Module, loss: Criterion, precision: str) -> None:
        super().__init__()
        self.model, self.loss, self.is_half = model, loss, precision == "bfloat16"

    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch, in float32 whatever the model computes in."""
        with torch.autocast(batch.inputs[0].device.type, torch.bfloat16, enabled=self.is_half):
            outputs = batch.through(self.model)
        if self.is_half:
            outputs = tree_map_only(Tensor, lambda t: t.float() if t.is_floating_point() else t, outputs)
        loss = self.loss(outputs, batch.labels)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            given = list(loss.shape) if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise ModelError("loss", given=given, expected="a tensor of one number, the mean over the samples")
        return loss.reshape(())


def _check_weights(model: nn.Module) -> None:
    small = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.dtype in HALVES]
    if small:
        remedy = "Call model.float(); precision='bfloat16' then computes in it."
        raise ModelError(
            small[0], given="weights in half precision", expected="float32, or they lose small updates", remedy=remedy
        )


HALVES = (torch.float16, torch.bfloat16)


def _smoothed(loss: Criterion, options: TrainOptions) -> Criterion:
    if not options.label_smoothing:
        return loss
    if loss is not cross_entropy:
        expected = "0 with a loss of your own, which does its own smoothing"
        raise SeparableError("TrainOptions.label_smoothing", given=options.label_smoothing, expected=expected)
    return partial(cross_entropy, label_smoothing=options.label_smoothing)


def _evaluated(evaluate: Evaluate, model: nn.Module) -> float:
    with evaluating(model):
        return told_by_first(lambda: float(evaluate(model)))


def _limited(batches: Iterable[Batch], samples: int) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        samples -= batch.samples
        if samples <= 0:
            return


def _name(model: nn.Module, feed: Feed, options: TrainOptions, *rest: object) -> str:
    """The same for the same model, data, options and what else there is: what a checkpoint belongs to."""
    inputs = next(feed.epoch(0)).inputs
    knobs = replace(options, checkpoint_every=1)
    return fingerprint([*inputs, model], knobs, feed.steps, list(model.state_dict()), *rest)
