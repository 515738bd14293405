"""What a network may be fed. In: a batch of images. Out: nothing, or an error that says what would have fitted."""

from torch import Tensor, fx

from separable.errors import SpecError
from separable.nn.geometry import check_input

STRIDE = 32


def check_images(where: str, x: Tensor, *, channels: int = 3, stride: int = STRIDE) -> None:
    """``SpecError`` unless ``x`` is (n, channels, h, w), h and w at least ``stride``, which makes one position of them.

    Classifiers halve height and width five times.
    """
    check_input(where, x, dims=2, channels=channels)
    if not isinstance(x, fx.Proxy) and (x.shape[2] < stride or x.shape[3] < stride):
        raise SpecError(
            where,
            given=f"images of {x.shape[2]}×{x.shape[3]}",
            expected=f"at least {stride}×{stride}, the stride of the whole network",
            remedy="Enlarge the images first.",
        )
