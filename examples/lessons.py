"""What the examples share. In: inputs and labels of two parts. Out: a trained network, and what it has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from separable import count
from separable.tune import TrainOptions, train


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """What to learn from, and what to be examined on: inputs (n, ...) and labels (n,) of each."""

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """A trained network, its accuracy on the test part, the baselines' on the same, and the MACs it saves."""

    model: nn.Module
    network: str
    accuracy: float
    baselines: dict[str, float]
    macs: int
    standard_macs: int

    def __str__(self) -> str:
        rows = {**self.baselines, self.network: self.accuracy}
        table = "\n".join(f"{name:<48} {share:6.1%}" for name, share in rows.items())
        saved = f"{self.macs / 1e6:.2f} M MACs an input, {self.standard_macs / 1e6:.2f} M with standard convolutions"
        return f"right on what was never seen:\n{table}\n{saved}: {self.standard_macs / self.macs:.1f}× fewer (counted)"


def taught(model: nn.Module, split: Split, *, epochs: int, seed: int) -> nn.Module:
    """The network after training, in evaluation mode."""
    pairs = torch.utils.data.TensorDataset(split.inputs, split.labels)
    loader = torch.utils.data.DataLoader(pairs, batch_size=16, shuffle=True)
    # A few hundred steps: the average of the weights must forget the first of them.
    options = TrainOptions(epochs=epochs, learning_rate=0.01, average_decay=0.95, seed=seed)
    return train(model, loader, options=options).model


def majority(split: Split) -> float:
    """Accuracy of always answering with the most frequent label."""
    return float((split.test_labels == split.labels.mode().values).float().mean())


def macs(model: nn.Module, inputs: Tensor) -> int:
    """The multiply-accumulates of one input."""
    return count(model, inputs[:1]).total.macs


@torch.inference_mode()
def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of the inputs for which the largest output is the label's."""
    right = [(model(x).argmax(1) == y).sum() for x, y in zip(inputs.split(100), labels.split(100), strict=True)]
    return float(sum(right)) / len(labels)


def logistic_regression(features: Tensor, test_features: Tensor, split: Split) -> float:
    """Accuracy of multinomial logistic regression on features (n, ...) that stand for the inputs of ``split``.

    Each is brought to zero mean and unit deviation; L-BFGS, with a penalty of 0.001 on the squared weights.
    """
    mean, deviation = features.flatten(1).mean(0), features.flatten(1).std(0).clamp(min=1e-6)
    x, test = ((part.flatten(1) - mean) / deviation for part in (features, test_features))
    weight = torch.zeros((int(split.labels.max()) + 1, x.shape[1] + 1), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight[:, 1:].T + weight[:, 0], split.labels) + 1e-3 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    found = (test @ weight[:, 1:].T + weight[:, 0]).argmax(1)
    return float((found == split.test_labels).float().mean())
