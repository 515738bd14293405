"""The library on real input. In: a path for the report. Out: a ResNet for scanned digits, made separable."""

from __future__ import annotations

import os
from dataclasses import replace

import torch
from torch import nn

from separable.files import checked_writable
from separable.models.digits import DigitsData, digits_data, digits_resnet
from separable.pipeline import GENTLE, ShrinkOptions, Shrunk, shrink
from separable.spec import Budget

BUDGET = Budget(latency=0.9, macs=0.33)  # a busy machine's clock may have no plan of half the time
BATCH = 8  # with one small image at a time PyTorch's own overhead, not arithmetic, is what would be measured


def run(report: str | os.PathLike[str]) -> Shrunk:
    """Shrink the digits ResNet with the 200 unlabelled calibration images, and write the report.

    Accuracy is that on the test digits, which neither training nor calibration saw. ``MissingExtraError`` without
    scikit-learn, which brings the digits.
    """
    checked_writable(report)
    data = digits_data()
    model = digits_resnet(trained=True)
    shrunk = shrink(
        model,
        data.calibration_images[:BATCH],
        data.calibration_images,
        BUDGET,
        metrics={"accuracy on test digits": lambda each: accuracy(each, data)},
        options=ShrinkOptions(distill=replace(GENTLE, steps=40, learning_rate=3e-5), also="separable"),
    )
    shrunk.write_report(report)
    return shrunk


@torch.no_grad()
def accuracy(model: nn.Module, data: DigitsData) -> float:
    """The share of the test digits that the model names rightly."""
    return float((model(data.test_images).argmax(1) == data.test_labels).double().mean())
