"""A keyword spotter that hears no future. In: features, width, classes. Out: a network to stream, not trained."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from separable.models.signals import check_frames
from separable.nn import CausalConv1d, CausalResidual, CausalSeparableConv1d, PointwiseConv1d, initialize_
from separable.nn.geometry import check_positive

KERNEL = 5


class CausalKeywords(nn.Module):
    """Log-mel features (n, features, frames) to logits (n, classes), the mean over what ``frames`` gives.

    ``frames`` (n, classes, frames) is what was heard up to each frame, and what is streamed:
    ``nn.Stream(nn.Sequential(features, model.frames))`` takes samples in pieces of any length and gives the logits of
    the whole signal. Residual separable convolutions of kernel 5 with the given dilations d hear 5 + 4 · Σd frames:
    with 1, 2, 4, 8 and 20 ms a frame 1.3 seconds.
    """

    def __init__(self, width: int, dilations: Sequence[int], classes: int, features: int, standard: bool) -> None:
        super().__init__()
        check_positive("CausalKeywords", width=width, classes=classes, features=features)
        self.input_shape = (features, 49)
        convolution = _standard if standard else _separable
        blocks = [CausalResidual(convolution(width, dilation)) for dilation in dilations]
        # The first norm brings features of any scale to zero mean and unit deviation.
        self.frames = nn.Sequential(
            nn.BatchNorm1d(features),
            CausalConv1d(features, width, KERNEL, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            *blocks,
            PointwiseConv1d(width, classes),
        )
        initialize_(self)

    def forward(self, x: Tensor) -> Tensor:
        check_frames("CausalKeywords", x, self.input_shape[0])
        logits: Tensor = self.frames(x)
        return logits.mean(dim=2)


def causal_keywords(
    width: int = 64,
    classes: int = 12,
    features: int = 40,
    *,
    dilations: Sequence[int] = (1, 2, 4, 8),
    standard: bool = False,
) -> CausalKeywords:
    """The causal keyword spotter; ``standard`` writes every separable convolution as an ordinary one."""
    return CausalKeywords(width, dilations, classes, features, standard)


def _separable(width: int, dilation: int) -> nn.Module:
    return CausalSeparableConv1d(width, width, KERNEL, dilation=dilation, norm=nn.BatchNorm1d, activation=nn.ReLU)


def _standard(width: int, dilation: int) -> nn.Module:
    conv = CausalConv1d(width, width, KERNEL, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm1d(width), nn.ReLU())
