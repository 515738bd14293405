"""The demo's network and its data. In: nothing. Out: a small trained ResNet, and scikit-learn's digits at 32×32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from separable.errors import FileError, MissingExtraError
from separable.models.resnet import resnet_small

WEIGHTS = Path(__file__).parent / "weights" / "digits_resnet.safetensors"
SIZE = 32
SPLIT_SEED = 0
TEST, CALIBRATION = 500, 200
# Mean and standard deviation of the ink (0 to 1) over the whole data set, rounded.
MEAN, DEVIATION = 0.3, 0.375


@dataclass(frozen=True, kw_only=True, eq=False)
class DigitsData:
    """1797 scanned digits in three parts that share no digit: 1097 train, 200 calibration, 500 test.

    Images are float32 (n, 1, 32, 32) with about zero mean and unit deviation, labels int64 (n,) from 0 to 9.
    The calibration images have no labels: they stand for whatever unlabelled input a person has at hand.
    """

    train_images: Tensor
    train_labels: Tensor
    calibration_images: Tensor
    test_images: Tensor
    test_labels: Tensor

    def __str__(self) -> str:
        parts = {"train": self.train_images, "calibration": self.calibration_images, "test": self.test_images}
        return ", ".join(f"{len(images)} {name}" for name, images in parts.items())


def digits_resnet(*, trained: bool = False) -> nn.Module:
    """A ResNet of three blocks, 64, 128 and 256 channels, for the images of ``digits_data``.

    ``trained`` loads the weights that ship with the package and puts the model in evaluation mode: at least 98.5 %
    of the test digits right. FileError when the file of weights is missing or damaged.
    """
    model = resnet_small(width=64, blocks=1, classes=10, in_channels=1)
    if not trained:
        return model
    try:
        # Kept in half precision on disk; the copy into the model's parameters makes them float32.
        model.load_state_dict(load_file(WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise FileError(
            str(WEIGHTS), given=str(error), expected="the trained weights", remedy="Install the package again."
        ) from error
    return model.eval()


def digits_data() -> DigitsData:
    """Scikit-learn's handwritten digits, always split the same way. MissingExtraError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("digits_data", package="sklearn", extra="demo") from error
    scans, digits = load_digits(return_X_y=True)
    images = enlarged(torch.from_numpy(scans).float().reshape(-1, 1, 8, 8))
    labels = torch.from_numpy(digits).long()
    order = torch.from_numpy(np.random.default_rng(SPLIT_SEED).permutation(len(labels)))
    test, calibration, train = order[:TEST], order[TEST : TEST + CALIBRATION], order[TEST + CALIBRATION :]
    return DigitsData(
        train_images=images[train],
        train_labels=labels[train],
        calibration_images=images[calibration],
        test_images=images[test],
        test_labels=labels[test],
    )


def enlarged(scans: Tensor) -> Tensor:
    """Scans (n, 1, 8, 8) with ink from 0 to 16, as the network takes them: (n, 1, 32, 32), about zero mean."""
    large = F.interpolate(scans / 16, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    return (large.clamp(0, 1) - MEAN) / DEVIATION
