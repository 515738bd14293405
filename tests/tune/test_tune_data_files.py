"""What load_data promises. In: files of arrays and folders of images. Out: the inputs they hold, or a clear error."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from separable.errors import DataError, FileError, MissingExtraError, SeparableError
from separable.tune import Batches, class_names, load_data

INPUTS = np.linspace(-1, 1, 5 * 3 * 4 * 6, dtype=np.float32).reshape(5, 3, 4, 6)
EXAMPLE = torch.zeros(1, 3, 4, 6)


def all_of(batches: Batches) -> Tensor:
    return torch.cat([batch.inputs[0] for batch in batches])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "inputs.npy", INPUTS)
    np.savez(tmp_path / "inputs.npz", x=INPUTS, labels=np.arange(5))
    save_file({"x": torch.from_numpy(INPUTS), "labels": torch.arange(5)}, tmp_path / "inputs.safetensors")
    return tmp_path


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
def test_the_inputs_of_a_file_are_read(folder: Path, suffix: str) -> None:
    batches = load_data(folder / f"inputs.{suffix}", EXAMPLE, batch_size=2)
    assert np.array_equal(all_of(batches).numpy(), INPUTS)
    labels = [batch.labels for batch in batches]
    assert torch.equal(torch.cat(labels), torch.arange(5)) if suffix != "npy" else labels == [None] * 3


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
@pytest.mark.parametrize("kept", [0, 30])
def test_a_damaged_file_is_refused(folder: Path, suffix: str, kept: int) -> None:
    path = folder / f"inputs.{suffix}"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FileError, match=f"inputs.{suffix}: got .*; expected an existing, whole file"):
        load_data(path, EXAMPLE)


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(FileError, match="pickle"):
        load_data(tmp_path / "objects.npy", EXAMPLE)


@pytest.mark.parametrize("name", ["missing.npy", "missing.safetensors", "missing", "inputs.csv"])
def test_what_is_no_data_is_refused(folder: Path, name: str) -> None:
    (folder / "inputs.csv").write_text("1,2")
    with pytest.raises(FileError, match=f"{name}: got .*; expected"):
        load_data(folder / name, EXAMPLE)


def test_a_file_without_anything_like_the_example_lists_what_it_has(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"'x': float32\[5, 3, 4, 6\].*expected exactly one entry float32\[n, 3, 8, 8\]"
    ):
        load_data(folder / "inputs.npz", torch.zeros(1, 3, 8, 8))


def test_bytes_in_a_file_are_refused_with_what_to_do(tmp_path: Path) -> None:
    np.save(tmp_path / "bytes.npy", np.zeros((2, 3, 4, 6), np.uint8))
    with pytest.raises(DataError, match="/ 255"):
        load_data(tmp_path / "bytes.npy", EXAMPLE)


def picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def test_images_are_read_in_the_order_of_their_names_from_subfolders_too(tmp_path: Path) -> None:
    for name, value in (("b.png", 51), ("a/z.PNG", 102), ("c.bmp", 255)):
        picture(tmp_path / name, np.full((4, 6, 3), value))
    (tmp_path / "notes.txt").write_text("no image")
    images = all_of(load_data(tmp_path, EXAMPLE))
    assert images.shape == (3, 3, 4, 6)
    assert images[:, 0, 0, 0].tolist() == pytest.approx([0.4, 0.2, 1.0])


@pytest.mark.parametrize("shape", [(4, 10, 3), (8, 6, 3)])
def test_an_image_is_cropped_at_the_centre_to_the_examples_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.zeros(shape)
    pixels[(shape[0] - 4) // 2 : (shape[0] + 4) // 2, (shape[1] - 6) // 2 : (shape[1] + 6) // 2] = 255
    picture(tmp_path / "a.png", pixels)
    assert torch.equal(all_of(load_data(tmp_path, EXAMPLE)), torch.ones(1, 3, 4, 6))


def test_an_image_is_scaled_so_that_it_just_covers_the_example(tmp_path: Path) -> None:
    pixels = np.zeros((8, 24, 3))
    pixels[:, 6:18] = 255  # at half the size and cropped to 6 columns, these are all that is left
    picture(tmp_path / "a.png", pixels)
    image = all_of(load_data(tmp_path, EXAMPLE))
    assert torch.equal(image[..., 1:-1], torch.ones(1, 3, 4, 4))


def test_images_become_gray_and_are_normalised_when_asked(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", np.full((4, 6, 3), 51))
    images = all_of(load_data(tmp_path, torch.zeros(1, 1, 4, 6), mean=[0.1], std=[0.5]))
    assert torch.allclose(images, torch.full((1, 1, 4, 6), 0.2))


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", np.zeros((4, 6, 3)))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(FileError, match=r"b\.png: got .*; expected a readable image"):
        all_of(load_data(tmp_path, EXAMPLE))


@pytest.mark.parametrize(
    ("example", "options", "message"),
    [
        (torch.zeros(1, 2, 4, 6), {}, r"\(n, 3, h, w\)"),
        ((EXAMPLE, EXAMPLE), {}, "got a tuple"),
        (EXAMPLE, {"mean": [0.5]}, "load_data.mean.*3 numbers"),
        (EXAMPLE, {"std": [0.5, 0.5, 0.0]}, "load_data.std.*above 0"),
    ],
)
def test_what_images_cannot_become_is_refused(tmp_path: Path, example: object, options: dict, message: str) -> None:
    picture(tmp_path / "a.png", np.zeros((4, 6, 3)))
    with pytest.raises(SeparableError, match=message):
        load_data(tmp_path, example, **options)


def test_images_of_more_than_eight_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 6), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: got an image of mode I;16; expected 8 bits"):
        load_data(tmp_path, EXAMPLE)


def test_a_mean_for_a_file_of_arrays_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="with a folder of images only"):
        load_data(folder / "inputs.npy", EXAMPLE, mean=[0.5, 0.5, 0.5])


def test_a_missing_pillow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match="separable\\[images\\]"):
        load_data(tmp_path, EXAMPLE)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got no image"):
        load_data(tmp_path, EXAMPLE)


def test_images_are_labelled_by_their_sub_folders_however_deep_they_lie(tmp_path: Path) -> None:
    for place in ("b/2.png", "a/deep/er/1.png", "c/3.png", "b/1.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4)).save(tmp_path / place)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    assert class_names(tmp_path) == ["a", "b", "c"]
    batches = load_data(tmp_path, EXAMPLE, has_classes=True)
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0, 1, 1, 2]
    assert all_of(batches).shape == (4, 3, 4, 6)


def test_an_image_in_no_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for place in ("a/1.png", "stray.png"):
        Image.new("L", (6, 4)).save(tmp_path / place)
    with pytest.raises(DataError, match=r"stray\.png, in no class; expected a sub-folder for each class"):
        load_data(tmp_path, EXAMPLE, has_classes=True)
