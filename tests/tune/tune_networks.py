"""What the tests of tune share. In: nothing. Out: scikit-learn's digits, a small trained network, it rewritten."""

import copy
import functools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from separable.factor import FAMILIES
from separable.graph.replace import replace
from separable.nn.factorized import from_factors, spec_of


class SmallNet(nn.Module):
    """Three 3×3 convolutions for digits of 8×8, with batch norms or without."""

    def __init__(self, has_norms: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.middle = nn.Conv2d(16, 32, 3, padding=1, stride=2)
        self.last = nn.Conv2d(32, 32, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) if has_norms else nn.Identity() for c in (16, 32, 32))
        self.dropout = nn.Dropout(0.1)
        self.classify = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip((self.stem, self.middle, self.last), self.norms, strict=True):
            x = F.relu(norm(conv(x)), inplace=True)
        logits: Tensor = self.classify(self.dropout(x.mean((2, 3))))
        return logits


SITES: Mapping[str, int] = {"middle": 8, "last": 4}  # with the size of the input


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 1, 8, 8) of about zero mean and unit deviation, and labels."""
    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 6 - 0.8, torch.from_numpy(labels)


@functools.cache
def untrained(has_norms: bool = True) -> SmallNet:
    """Always the same random weights; not to be changed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallNet(has_norms).eval()


@functools.cache
def trained(has_norms: bool = True) -> SmallNet:
    """Trained on the first 1000 digits; not to be changed."""
    images, labels = digits()
    model = copy.deepcopy(untrained(has_norms)).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(150):
            rows = torch.randint(1000, (64,))
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return model.eval()


def rewritten(model: nn.Module, share: float = 0.3, family: str = "spatial") -> nn.Module:
    """The model with two of its convolutions factorised by their weights alone, at a share of the full rank."""
    layers = {}
    for name, size in SITES.items():
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        spec = spec_of(conv, (size, size))
        rank = tuple(max(1, round(share * full)) for full in FAMILIES[family].ranks(spec))
        layers[name] = from_factors(FAMILIES[family].factorize(conv.weight, spec, rank), bias=conv.bias)
    return replace(model, layers)


@torch.no_grad()
def error(model: nn.Module, other: nn.Module, images: Tensor) -> float:
    """‖y − y'‖² / ‖y‖²."""
    y = model(images).double()
    return float((y - other(images).double()).square().sum() / y.square().sum())
