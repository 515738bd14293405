"""What a network may be fed. In: a batch of images. Out: nothing, or an error that says what would have fitted."""

from torch import Tensor, fx

from separable.errors import SpecError
from separable.nn.geometry import check_input

STRIDE = 32


def check_images(where: str, x: Tensor) -> None:
    """``SpecError`` unless ``x`` is (n, 3, h, w) h and w at least 32: the networks halve both five times."""
    check_input(where, x, dims=2, channels=3)
    if not isinstance(x, fx.Proxy) and (x.shape[2] < STRIDE or x.shape[3] < STRIDE):
        raise SpecError(
            where,
            given=f"images of {x.shape[2]}×{x.shape[3]}",
            expected=f"at least {STRIDE}×{STRIDE}, the stride of the whole network",
            remedy="Enlarge the images first.",
        )
