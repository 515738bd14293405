"""Characters drawn with matplotlib's fonts, and a VGG-like network for them. In: a seed. Out: images and labels."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file
from torch import Tensor, nn

from separable.nn import fold_batch_norm

WEIGHTS = Path(__file__).parent / "weights" / "characters_vgg.safetensors"
SIZE = 32
# The 47 classes of EMNIST "balanced" (Cohen et al. 2017): lower-case letters that look like their capital are left out.
CLASSES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmr10", "cmss10", "cmtt10"),
)


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """``count`` images (count, 1, 32, 32) of about zero mean and their labels (count,), the same for the same seed."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(len(CLASSES), size=count)
    images = np.stack([character(CLASSES[label], generator) for label in labels])
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels)


def character(glyph: str, generator: np.random.Generator) -> np.ndarray:
    """One drawing, float32 (32, 32): random font, size, place, slant, turn, contrast and noise."""
    font = _font(generator.choice(FONTS), int(generator.integers(16, 27)))
    canvas = Image.new("L", (2 * SIZE, 2 * SIZE))
    # The anchor "mm" puts the middle of the line, not of the glyph, at the centre: capitals and small letters differ.
    ImageDraw.Draw(canvas).text((SIZE, SIZE), glyph, font=font, fill=255, anchor="mm")
    ink = np.asarray(_bent(canvas, generator), dtype=np.float32) / 255
    contrast = generator.uniform(0.4, 1.0)
    noise = generator.normal(size=ink.shape) * generator.uniform(0.02, 0.2)
    return (4 * (contrast * (ink - 0.15) + noise)).astype(np.float32)


def vgg_small() -> nn.Sequential:
    """Convolutions of 64, 64, 128, 128, 256, 256 channels in three stages, with batch norm, not trained."""
    layers: list[nn.Module] = []
    c_in = 1
    for c_out in (64, 128, 256):
        for _ in range(2):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
            c_in = c_out
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * c_in, len(CLASSES)))


def characters_vgg() -> nn.Module:
    """The trained network, as networks are deployed: batch norms folded into the convolutions, evaluation mode."""
    model = fold_batch_norm(vgg_small().eval())
    model.load_state_dict(load_file(WEIGHTS))
    return model


def _bent(canvas: Image.Image, generator: np.random.Generator) -> Image.Image:
    """The middle of ``canvas``, 32×32, turned, slanted and moved at random."""
    angle, slant = generator.normal(scale=0.1), generator.normal(scale=0.2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1, slant], [0, 1]])
    offset = SIZE - matrix @ (np.array([SIZE / 2, SIZE / 2]) + generator.uniform(-4, 4, size=2))
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    return canvas.transform((SIZE, SIZE), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)
