"""What a network of sounds may be fed. In: a batch of features. Out: nothing, or an error that says what would fit."""

from torch import Tensor, fx

from separable.errors import SpecError


def check_frames(where: str, x: Tensor, features: int) -> None:
    """``SpecError`` unless ``x`` is (n, ``features``, frames) with at least one frame."""
    if isinstance(x, fx.Proxy) or (x.dim() == 3 and x.shape[1] == features and x.shape[2] > 0):
        return
    given, expected = f"an input of shape {tuple(x.shape)}", f"(n, {features}, frames), at least one frame"
    raise SpecError(where, given=given, expected=expected, remedy="nn.LogMel makes such features of samples.")
