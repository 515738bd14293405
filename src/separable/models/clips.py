"""What a network of videos may be fed. In: a batch of clips. Out: nothing, or an error that says what would fit."""

from torch import Tensor, fx

from separable.errors import SpecError
from separable.nn.geometry import check_input


def check_clips(where: str, x: Tensor, channels: int, least: tuple[int, int, int]) -> None:
    """``SpecError`` unless ``x`` is (n, ``channels``, t, h, w), each of the last three no less than ``least``."""
    if isinstance(x, fx.Proxy):
        return
    check_input(where, x, dims=3, channels=channels)
    if any(size < stride for size, stride in zip(x.shape[2:], least, strict=True)):
        raise SpecError(
            where,
            given=f"clips of {'×'.join(map(str, x.shape[2:]))} (frames, height, width)",
            expected=f"at least {'×'.join(map(str, least))}, the stride of the whole network",
            remedy="Take more frames, or enlarge them first.",
        )
