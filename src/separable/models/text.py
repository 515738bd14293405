"""Classification of texts letter by letter. In: strings. Out: their bytes as whole numbers; a network, not trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.fx
from torch import Tensor, fx, nn

from separable.errors import DataError, SpecError
from separable.nn import TimeChannelResidual1d, initialize_
from separable.nn.geometry import check_positive
from separable.nn.time_channel import masked_peak, strided

SYMBOLS = 257  # the end of a text, and every byte
KERNEL, REPEATS, STRIDE = 5, 2, 2


class SeparableText(nn.Module):
    """Symbols (n, w), whole numbers that are 0 behind the end of a text, to logits (n, classes).

    A vector a symbol, ``blocks`` residual blocks of two separable convolutions of kernel 5, and for each channel the
    largest value in the text (max-over-time pooling, Collobert et al. 2011).
    Each block after the first halves the length and doubles the channels. Texts of different lengths in one batch are
    padded with 0, and how far changes nothing, in training neither. An empty text is all zeros.
    """

    def __init__(self, width: int, blocks: int, classes: int, symbols: int, standard: bool) -> None:
        super().__init__()
        check_positive("SeparableText", width=width, blocks=blocks, classes=classes, symbols=symbols)
        self.input_shape = (128,)
        self.symbols = symbols
        self.embedding = nn.Embedding(symbols, width, padding_idx=0)
        channels = [width << index for index in range(blocks)]
        self.blocks = nn.ModuleList(
            TimeChannelResidual1d(
                channels[max(0, index - 1)],
                channels[index],
                KERNEL,
                stride=1 if index == 0 else STRIDE,
                repeats=REPEATS,
                standard=standard,
            )
            for index in range(blocks)
        )
        self.classifier = nn.Linear(channels[-1], classes)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        lengths = _lengths(x)
        y = self.embedding(x).transpose(1, 2)
        for index, block in enumerate(self.blocks):
            y = block(y, lengths)
            lengths = strided(lengths, STRIDE) if index > 0 else lengths
        logits: Tensor = self.classifier(masked_peak(y, lengths))
        return logits

    def _check(self, x: Tensor) -> None:
        is_fit = isinstance(x, fx.Proxy) or (x.dim() == 2 and x.dtype in (torch.int32, torch.int64) and x.shape[1] > 0)
        if not is_fit:
            given = f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
            expected, remedy = f"int64 (n, w), whole numbers below {self.symbols}", "encode_text makes them of strings."
            raise SpecError("SeparableText", given=given, expected=expected, remedy=remedy)


def _lengths(x: Tensor) -> Tensor:
    """Up to which symbol each text goes: the last that is not 0."""
    return (torch.arange(1, x.shape[1] + 1, device=x.device) * (x != 0)).amax(dim=1)


# The places depend on the size, so a traced network keeps it whole.
torch.fx.wrap("_lengths")


def separable_text(
    width: int = 64, classes: int = 4, *, blocks: int = 3, symbols: int = SYMBOLS, standard: bool = False
) -> SeparableText:
    """The text classifier; ``standard`` writes every separable convolution as an ordinary one of the same kernel."""
    return SeparableText(width, blocks, classes, symbols, standard)


def encode_text(texts: Sequence[str], length: int | None = None) -> Tensor:
    """The UTF-8 bytes of each text, each plus 1, with 0 behind: int64 (n, w).

    w is that of the longest text, or ``length``. ``DataError`` for no text, an empty one, or one that does not fit.

    >>> encode_text(["ab", "é"]).tolist()
    [[98, 99], [196, 170]]
    >>> encode_text(["a"], length=3).tolist()
    [[98, 0, 0]]
    """
    if isinstance(texts, str) or not texts:
        raise DataError("encode_text", given=repr(texts), expected="a list of at least one text")
    rows = [text.encode() for text in texts]
    size = max(map(len, rows)) if length is None else length
    for index, row in enumerate(rows):
        if not 0 < len(row) <= size:
            expected = "at least one" if not row else f"at most length (={size})"
            remedy = "Leave it out." if not row else "Cut it, or give a greater length."
            raise DataError(f"encode_text: text {index}", given=f"{len(row)} bytes", expected=expected, remedy=remedy)
    codes = torch.zeros((len(rows), size), dtype=torch.int64)
    for code, row in zip(codes, rows, strict=True):
        code[: len(row)] = torch.frombuffer(bytearray(row), dtype=torch.uint8).long() + 1
    return codes
