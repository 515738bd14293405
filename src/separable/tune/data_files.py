"""Data that lies on disk. In: a file of arrays, or a folder of images. Out: batches, checked against the example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset

from separable.errors import DataError, FileError, MissingExtraError
from separable.tune.batches import Batches, read_batches

IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB"}


def load_data(
    path: str | Path,
    example: Any,
    *,
    batch_size: int | None = None,
    limit: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    has_classes: bool = False,
) -> Batches:
    """Read a .npy, .npz or .safetensors file of inputs (n, ...), or a folder of images (its subfolders too).

    Of several arrays in a file, the one that looks like the example is the input, and one called ``labels`` the labels.
    Images are scaled so that they just cover the example's height and width, cropped at the centre, turned into gray or
    RGB as the example's channels ask, divided by 255, and normalised with ``mean`` and ``std`` (one number a channel)
    where given. With ``has_classes`` each image of a folder is labelled with the number of its sub-folder, as
    ``class_names`` lists them. Raises ``FileError`` for what cannot be read and ``DataError`` for what does not fit.
    """
    path = Path(path)
    data: Any
    if path.is_dir():
        images = ImageFolder(path, example, mean=mean, std=std)
        data = ClassFolder(path, images) if has_classes else images
    elif mean is None and std is None:
        data = _arrays(path)
    else:
        raise DataError("load_data", given=f"mean or std for {path}", expected="them with a folder of images only")
    return read_batches(data, example, batch_size=batch_size, limit=limit)


class ImageFolder(Dataset[Tensor]):
    """The images of a folder in the order of their names, each (c, h, w) as the example (n, c, h, w) asks."""

    def __init__(
        self, folder: Path, example: Any, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        _check_pillow()
        self.paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
        if not self.paths:
            raise DataError(str(folder), given="no image", expected=f"files ending in {', '.join(IMAGES)}")
        if not isinstance(example, Tensor) or example.dim() != 4 or example.shape[1] not in MODES:
            given = list(example.shape) if isinstance(example, Tensor) else f"a {type(example).__name__}"
            raise DataError("example", given=given, expected="one tensor (n, 1, h, w) or (n, 3, h, w), to read images")
        self.channels, self.height, self.width = example.shape[1:]
        self.mean = _per_channel("mean", mean, self.channels, default=0.0)
        self.std = _per_channel("std", std, self.channels, default=1.0)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image, ImageOps

        try:
            with Image.open(self.paths[index]) as image:
                mode = image.mode
                gray_or_colour = image.convert(MODES[self.channels])
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise FileError(str(self.paths[index]), given=error, expected="a readable image") from error
        if mode.startswith(("I", "F")):  # what lies above 255 has been clipped
            raise DataError(str(self.paths[index]), given=f"an image of mode {mode}", expected="8 bits a channel")
        fitted = ImageOps.fit(gray_or_colour, (self.width, self.height), Image.Resampling.BILINEAR)
        pixels = np.array(fitted).reshape(self.height, self.width, self.channels)
        return (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - self.mean) / self.std


class ClassFolder(Dataset[tuple[Tensor, int]]):
    """The images of a folder, each with the number of the sub-folder that it lies in."""

    def __init__(self, folder: Path, images: ImageFolder) -> None:
        numbers = {name: number for number, name in enumerate(class_names(folder))}
        self.images = images
        self.labels = [numbers[path.relative_to(folder).parts[0]] for path in images.paths]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.labels[index]


def class_names(folder: Path) -> list[str]:
    """The sub-folders that hold images, in the order of their names; ``DataError`` for an image outside of them."""
    inside = [path.relative_to(folder).parts for path in folder.rglob("*") if path.suffix.lower() in IMAGES]
    loose = sorted(parts[0] for parts in inside if len(parts) == 1)
    if loose:
        raise DataError(str(folder), given=f"{loose[0]}, in no class", expected="a sub-folder for each class")
    return sorted({parts[0] for parts in inside})


def _arrays(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in (".npy", ".npz"):
            with path.open("rb") as file:
                loaded = np.load(file, allow_pickle=False)
                return dict(loaded) if path.suffix == ".npz" else loaded
    except Exception as error:  # there is no end to what a few wrong bytes make the readers raise
        raise FileError(str(path), given=error, expected="an existing, whole file of numbers") from error
    given = f"a file ending in {path.suffix!r}" if path.exists() else "nothing there"
    raise FileError(str(path), given=given, expected="a .npy, .npz or .safetensors file, or a folder of images")


def _check_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("load_data", package="PIL", extra="images") from error


def _per_channel(name: str, values: Sequence[float] | None, channels: int, *, default: float) -> Tensor:
    numbers = [default] * channels if values is None else list(values)
    if len(numbers) != channels or (name == "std" and min(numbers) <= 0):
        expected = f"{channels} numbers, one a channel" + (", above 0" if name == "std" else "")
        raise DataError(f"load_data.{name}", given=values, expected=expected)
    return torch.tensor(numbers).reshape(-1, 1, 1)
