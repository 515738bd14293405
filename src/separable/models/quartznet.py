"""QuartzNet. In: blocks, repeats, width, classes. Out: the speech networks of Kriman et al. 2019, table 1."""

from __future__ import annotations

from torch import Tensor, nn

from separable.models.signals import check_frames
from separable.nn import TimeChannelConv1d, TimeChannelResidual1d, initialize_, make_divisible
from separable.nn.geometry import check_positive
from separable.nn.time_channel import masked_mean, strided

# (kernel, channels) of each block at width 1.
BLOCKS = ((33, 256), (39, 256), (51, 512), (63, 512), (75, 512))
STEM, LAST, HIDDEN = (33, 256), (87, 512), 1024
STRIDE = 2


class QuartzNet(nn.Module):
    """Log-mel features (n, features, frames) to logits (n, classes), the mean over what ``per_frame`` gives.

    The paper's 64 features are ``nn.LogMel(16_000, window=320, hop=160, mels=64)``.
    """

    def __init__(
        self, copies: int, repeats: int, width: float, classes: int, features: int, standard: bool = False
    ) -> None:
        super().__init__()
        check_positive("QuartzNet", copies=copies, repeats=repeats, classes=classes, features=features)
        self.input_shape = (features, 200)
        channels = make_divisible(STEM[1] * width)
        layers: list[nn.Module] = [TimeChannelConv1d(features, channels, STEM[0], STRIDE, standard=standard)]
        for kernel, wanted in BLOCKS:
            for _ in range(copies):
                c_in, channels = channels, make_divisible(wanted * width)
                layers.append(TimeChannelResidual1d(c_in, channels, kernel, repeats=repeats, standard=standard))
        c_in, channels, hidden = channels, make_divisible(LAST[1] * width), make_divisible(HIDDEN * width)
        layers.append(TimeChannelConv1d(c_in, channels, LAST[0], dilation=2, standard=standard))
        layers.append(TimeChannelConv1d(channels, hidden, 1, standard=True))
        self.encoder = nn.ModuleList(layers)
        self.decoder = nn.Conv1d(hidden, classes, 1)
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.per_frame(x).mean(dim=2)

    def per_frame(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (n, classes, ⌈frames / 2⌉), as connectionist temporal classification takes them (one class is blank).

        ``lengths`` (n,) says after how many frames each signal ends; of the output ``output_lengths(lengths)`` count,
        and are what the signal alone would give.
        """
        check_frames("QuartzNet", x, self.input_shape[0])
        for index, layer in enumerate(self.encoder):
            x = layer(x, lengths)
            lengths = strided(lengths, STRIDE) if index == 0 else lengths
        logits: Tensor = self.decoder(x)
        return logits

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """How many frames of the output belong to signals of ``lengths`` frames."""
        return (lengths + STRIDE - 1) // STRIDE

    def classify(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Logits (n, classes) of signals that end after ``lengths`` (n,) frames."""
        return masked_mean(self.per_frame(x, lengths), self.output_lengths(lengths))


def quartznet(
    copies: int = 1,
    repeats: int = 5,
    width: float = 1.0,
    classes: int = 29,
    features: int = 64,
    *,
    standard: bool = False,
) -> QuartzNet:
    """QuartzNet with ``copies`` of each of the five blocks, ``repeats`` convolutions in each, channels times ``width``.

    ``standard`` writes every separable convolution as an ordinary one of the same kernel.
    """
    return QuartzNet(copies, repeats, width, classes, features, standard)


def quartznet_5x5(classes: int = 29, features: int = 64) -> QuartzNet:
    """QuartzNet-5x5; 29 classes are the letters, space, apostrophe and blank of English."""
    return QuartzNet(1, 5, 1.0, classes, features)


def quartznet_10x5(classes: int = 29, features: int = 64) -> QuartzNet:
    """QuartzNet-10x5."""
    return QuartzNet(2, 5, 1.0, classes, features)


def quartznet_15x5(classes: int = 29, features: int = 64) -> QuartzNet:
    """QuartzNet-15x5."""
    return QuartzNet(3, 5, 1.0, classes, features)
