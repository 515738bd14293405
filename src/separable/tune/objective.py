"""What distillation minimises. In: a batch, the teacher's answers, a student. Out: the loss and what it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from separable.errors import DataError, ModelError
from separable.graph.inference import evaluating, outputs
from separable.tune.batch import Batch
from separable.tune.listen import Heard, counterparts, heard, rewritten_layers
from separable.tune.options import DistillOptions


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model says to a batch: its outputs, and those of the layers that are compared, call by call."""

    outputs: Sequence[Tensor]
    features: Heard


class Teacher:
    """The original. Errors are divided by the energies of its answers to the ``first`` batch, around their means."""

    def __init__(self, model: nn.Module, student: nn.Module, options: DistillOptions, first: Batch) -> None:
        self.model = model
        self.layers = counterparts(model, rewritten_layers(student)) if options.feature_weight else {}
        answers = self.answer(first)
        if not answers.outputs or not all(bool(tensor.isfinite().all()) for tensor in answers.outputs):
            raise ModelError("teacher", given="outputs without numbers, or not finite", expected="finite tensors")
        self.output_energy = _energy(answers.outputs)
        self.output_energies = [_energy([tensor]) for tensor in answers.outputs]
        self.energies = {name: _energy(answer) for name, answer in answers.features.items()}

    def answer(self, batch: Batch) -> Answers:
        """Computed in evaluation mode, without gradients."""
        with evaluating(self.model), heard(self.layers) as features:
            return Answers(outputs=outputs(batch.through(self.model)), features=features)


class Objective(nn.Module):
    """The student and its loss in one forward, which is what DistributedDataParallel has to see.

    The loss is T² KL(teacher ‖ student) of the logits divided by the temperature T (Hinton, Vinyals, Dean 2015), or
    the relative squared error of values; plus, weighted, the mean relative squared error of the outputs of the
    rewritten layers; plus, weighted, the cross-entropy with the labels.
    """

    def __init__(self, student: nn.Module, teacher: Teacher, options: DistillOptions) -> None:
        super().__init__()
        self.student = student
        self.layers = {name: layer for name, layer in rewritten_layers(student).items() if name in teacher.layers}
        self.output_energy, self.energies = teacher.output_energy, teacher.energies
        self.output_energies = teacher.output_energies
        self.options = options

    def forward(self, batch: Batch, wanted: Answers) -> tuple[Tensor, Tensor]:
        """The loss, and its three parts before they are weighted: output, features, labels."""
        with heard(self.layers) as features:
            found = outputs(batch.through(self.student))
        parts = torch.stack(
            [
                self._output(found, wanted.outputs),
                self._features(features, wanted.features),
                self._labels(found, batch.labels),
            ]
        )
        weights = parts.new_tensor([1.0, self.options.feature_weight, self.options.label_weight])
        return parts @ weights, parts.detach()

    def _output(self, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        if self.options.outputs == "values":
            return _error("the output", found, wanted) / self.output_energy
        _check_alike("the output", found, wanted)
        parts = zip(found, wanted, self.output_energies, strict=True)
        return _mean(
            [
                _divergence(ours, theirs, self.options.temperature)
                if theirs.dim() > 1
                else F.mse_loss(ours, theirs) / energy
                for ours, theirs, energy in parts
            ]
        )

    def _features(self, found: Heard, wanted: Heard) -> Tensor:
        errors = [_error(name, found.get(name, []), wanted[name]) / self.energies[name] for name in wanted]
        return _mean(errors) if errors else torch.zeros(())

    def _labels(self, found: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        if not self.options.label_weight:
            return found[0].new_zeros(())
        if labels is None:
            expected = "labels in every batch, as label_weight is above 0"
            raise DataError("distill", given="inputs alone", expected=expected)
        return F.cross_entropy(found[0], labels.to(found[0].device))


def _divergence(ours: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """T² KL(theirs ‖ ours), the mean over everything but the classes, which lie along axis 1."""
    log_p, log_q = F.log_softmax(theirs / temperature, dim=1), F.log_softmax(ours / temperature, dim=1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1).mean()


def _error(where: str, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    _check_alike(where, found, wanted)
    return _mean([F.mse_loss(ours, theirs) for ours, theirs in zip(found, wanted, strict=True)])


def _energy(tensors: Sequence[Tensor]) -> float:
    """The mean square around the mean of each channel (axis 1); 1 where nothing but rounding is around it."""
    centred = [tensor - tensor.mean([axis for axis in range(tensor.dim()) if axis != 1], True) for tensor in tensors]
    around, whole = (float(_mean([tensor.square().mean() for tensor in each])) for each in (centred, tensors))
    rounding = (10 * torch.finfo(tensors[0].dtype).eps) ** 2 * whole
    return around if around > rounding else 1.0


def _mean(scalars: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(scalars)).mean()


def _check_alike(where: str, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    given, expected = ([list(tensor.shape) for tensor in tensors] for tensors in (found, wanted))
    if given != expected:
        raise ModelError(where, given=f"the student's shapes {given}", expected=f"the teacher's, {expected}")
