"""Sound as a picture of its frequencies. In: samples (n, w). Out: log-mel features or cepstra (n, c, frames)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx, nn

from separable.errors import SpecError
from separable.nn.causal import joined
from separable.nn.geometry import check_input, check_positive


class LogMel(nn.Module):
    """Samples (n, w) to the logarithm of their energy on the mel scale, (n, ``mels``, frames).

    Frame i is samples i · ``hop`` to i · ``hop`` + ``window`` − 1, so a signal has 1 + ⌊(w − window) / hop⌋ frames and
    none sees beyond its own samples: ``nn.Stream`` takes the layer as it is. Each is multiplied by a periodic Hann
    window and followed by zeros up to the next power of two; its energies |X|² are added up under triangles of height
    1 whose corners lie at equal distances between ``low`` and ``high`` hertz on the scale 2595 · log₁₀(1 + f / 700)
    (O'Shaughnessy 1987). ``floor`` is added before the natural logarithm. Computed in float32 at least, under autocast
    too. ``high`` is half of ``rate`` when not given. ``SpecError`` for a triangle so narrow that no frequency of the
    transform falls into it, and for a signal shorter than one window.

    >>> LogMel(16_000, window=640, hop=320)(torch.zeros(2, 16_000)).shape
    torch.Size([2, 40, 49])
    """

    def __init__(
        self,
        rate: int,
        *,
        window: int,
        hop: int,
        mels: int = 40,
        low: float = 20.0,
        high: float | None = None,
        floor: float = 1e-6,
    ) -> None:
        super().__init__()
        check_positive("LogMel", rate=rate, window=window, hop=hop, mels=mels)
        high = rate / 2 if high is None else high
        if not 0 <= low < high <= rate / 2:
            given, expected = f"low (={low}) and high (={high})", f"0 ≤ low < high ≤ {rate / 2}, half of the rate"
            raise SpecError("LogMel", given=given, expected=expected)
        if hop > window:
            raise SpecError("LogMel", given=f"hop (={hop})", expected=f"at most window (={window})")
        if not floor > 0:
            raise SpecError("LogMel", given=f"floor (={floor})", expected="a positive number")
        self.window, self.hop, self.floor = window, hop, floor
        self.transform = 1 << (window - 1).bit_length()
        self.taper: Tensor
        self.filters: Tensor
        self.register_buffer("taper", torch.hann_window(window, dtype=torch.float64).float(), persistent=False)
        self.register_buffer("filters", _triangles(rate, self.transform, mels, low, high), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        if not isinstance(x, fx.Proxy) and x.shape[1] < self.window:
            given, expected = f"a signal of {x.shape[1]} samples", f"at least one window of {self.window}"
            raise SpecError("LogMel", given=given, expected=expected, remedy="Put zeros behind it.")
        # The energies of speech span more than the digits of a half-precision number.
        dtype = torch.promote_types(self.taper.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            frames = x.to(dtype).unfold(1, self.window, self.hop) * self.taper.to(dtype)
            spectrum = torch.fft.rfft(frames, self.transform)
            energy = spectrum.real.square() + spectrum.imag.square()
            features: Tensor = (energy @ self.filters.to(dtype) + self.floor).log().transpose(1, 2)
        return features

    def resume(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """The frames that piece x completes, none (n, mels, 0) if it is too short, and the samples to keep."""
        self._check(x)
        known = joined("LogMel", x, past)
        frames = max(0, (known.shape[1] - self.window) // self.hop + 1)
        if frames == 0:
            return self.taper.new_empty((x.shape[0], self.filters.shape[1], 0)), known
        return self(known[:, : (frames - 1) * self.hop + self.window]), known[:, frames * self.hop :]

    def extra_repr(self) -> str:
        """The sizes."""
        return f"window={self.window}, hop={self.hop}, mels={self.filters.shape[1]}, transform={self.transform}"

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, fx.Proxy) and (x.dim() != 2 or not x.is_floating_point()):
            given = f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
            remedy = "Whole-number samples are divided by their largest value first."
            raise SpecError("LogMel", given=given, expected="floating-point samples (n, w)", remedy=remedy)


class Cepstrum(nn.Module):
    """Log-mel features (n, mels, frames) to their first ``coefficients``, (n, coefficients, frames): MFCC.

    Coefficient k is √(2/mels) · Σ_m x_m · cos(π · k · (m + ½) / mels), times √½ for k = 0: the orthonormal discrete
    cosine transform. All ``mels`` of them keep the energy.
    """

    def __init__(self, mels: int, coefficients: int) -> None:
        super().__init__()
        check_positive("Cepstrum", mels=mels, coefficients=coefficients)
        if coefficients > mels:
            given, expected = f"coefficients (={coefficients})", f"at most mels (={mels})"
            raise SpecError("Cepstrum", given=given, expected=expected)
        places = torch.arange(mels, dtype=torch.float64) + 0.5
        orders = torch.arange(coefficients, dtype=torch.float64)
        cosines = (math.pi / mels * orders[:, None] * places).cos() * math.sqrt(2 / mels)
        cosines[0] *= math.sqrt(0.5)
        self.cosines: Tensor
        self.register_buffer("cosines", cosines.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        check_input("Cepstrum", x, 1, self.cosines.shape[1])
        return self.cosines @ x


def _triangles(rate: int, transform: int, mels: int, low: float, high: float) -> Tensor:
    """Weights (frequencies, mels): filter m rises from corner m to 1 at corner m + 1 and falls to corner m + 2."""
    hertz = torch.arange(transform // 2 + 1, dtype=torch.float64) * (rate / transform)
    corners = 700 * (10 ** (torch.linspace(_mel(low), _mel(high), mels + 2, dtype=torch.float64) / 2595) - 1)
    rising = (hertz[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - hertz[:, None]) / (corners[2:] - corners[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    empty = (filters.sum(dim=0) == 0).nonzero().flatten().tolist()
    if empty:
        given = (
            f"mels (={mels}), of which number {empty[0]} lies between two frequencies {rate / transform:.4g} Hz apart"
        )
        raise SpecError("LogMel", given=given, expected="wider ones", remedy="Ask for fewer mels or a longer window.")
    return filters.float()


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)
