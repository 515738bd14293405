"""The demo's network and data. In: the shipped weights, scikit-learn's scans. Out: accuracy, no digit in two parts."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from separable.errors import FileError, MissingExtraError
from separable.models import digits
from separable.models.digits import digits_data, digits_resnet


def test_the_shipped_network_reads_at_least_98_5_percent_of_the_digits_that_it_never_saw() -> None:
    data, model = digits_data(), digits_resnet(trained=True)
    with torch.inference_mode():
        right = torch.cat([model(images) for images in data.test_images.split(100)]).argmax(1) == data.test_labels
    assert len(right) == 500
    assert right.float().mean() >= 0.985


def test_no_digit_is_in_two_parts() -> None:
    data = digits_data()
    parts = data.train_images, data.calibration_images, data.test_images
    seen = [{image.numpy().tobytes() for image in part} for part in parts]
    assert [len(part) for part in parts] == [1097, 200, 500]
    assert len(set.union(*seen)) == sum(len(images) for images in seen) == 1797


def test_the_split_is_the_same_every_time() -> None:
    first, second = digits_data(), digits_data()
    assert torch.equal(first.calibration_images, second.calibration_images)
    assert torch.equal(first.test_labels, second.test_labels)


def test_images_have_about_zero_mean_and_unit_deviation() -> None:
    images = digits_data().train_images
    assert images.shape[1:] == (1, 32, 32)
    assert abs(images.mean()) < 0.1
    assert 0.9 < images.std() < 1.1


def test_enlarging_keeps_ink_and_paper_where_they_were() -> None:
    scan = torch.zeros(1, 1, 8, 8)
    scan[..., 4:] = 16
    large = digits.enlarged(scan)
    ink, paper = (1 - digits.MEAN) / digits.DEVIATION, -digits.MEAN / digits.DEVIATION
    assert torch.allclose(large[..., 24:], torch.tensor(ink), atol=1e-6)
    assert torch.allclose(large[..., :8], torch.tensor(paper), atol=1e-6)


def test_the_weights_fit_in_three_megabytes() -> None:
    assert digits.WEIGHTS.stat().st_size <= 3_000_000
    assert all(tensor.dtype == torch.float16 for tensor in load_file(digits.WEIGHTS).values() if tensor.ndim > 1)


def test_the_trained_network_is_in_float32_and_in_evaluation_mode_and_the_untrained_one_in_training_mode() -> None:
    model = digits_resnet(trained=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    assert digits_resnet().training


@pytest.mark.parametrize("content", [None, b"", b"not weights at all"])
def test_missing_or_damaged_weights_are_named(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(digits, "WEIGHTS", path)
    with pytest.raises(FileError, match=r"weights\.safetensors.*Install the package again"):
        digits_resnet(trained=True)


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"separable\[demo\]"):
        digits_data()
