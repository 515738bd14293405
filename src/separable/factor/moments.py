"""What a fit needs to know of data. In: a convolution's inputs and wanted outputs. Out: their second moments, float64.

A patch is what the kernel sees at one place: d = c_in/g · ∏kernel numbers. The best weights, the best bias and the
error of any weights depend on the data through the moments of patches and outputs alone, so that data of any length
are read once and forgotten.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from separable.errors import DataError, SpecError
from separable.spec import ConvSpec

PADDINGS = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}
CHUNK = 2**23  # numbers of patches held at once: 64 MiB
BLOCK = 512  # columns of a matrix product: at d = 4608 a little more than half the work, below 512 all in one
# Patches for each unknown below which more places are read. On a trained network a fit to 5.5 patches for each of 576
# unknowns had a held-out error 5 % above that of a fit to 22, and a fit to 11 for each of 288 one 1 % above that of 44.
ENOUGH = 4


class Moments:
    """Running sums over patches: ``count``, means, and second moments about the means, for each group.

    ``input_mean`` (g, d), ``output_mean`` (g, c_out/g), ``inputs`` (g, d, d), ``cross`` (g, c_out/g, d) and ``energy``
    (g). Neighbouring patches say nearly the same: of each image at most ``positions`` places are read, drawn by
    ``seed``, or more while there are fewer than 4·d patches in all. None reads every place.
    """

    def __init__(
        self, spec: ConvSpec, padding_mode: str = "zeros", *, positions: int | None = 64, seed: int = 0
    ) -> None:
        if padding_mode not in PADDINGS:
            raise SpecError("Moments", given=f"padding_mode {padding_mode!r}", expected=f"one of {list(PADDINGS)}")
        self.spec = spec
        self.padding_mode = padding_mode
        self.positions = positions
        self._generator = torch.Generator().manual_seed(seed)
        g, d, o = spec.groups, spec.weights // spec.c_out, spec.c_out // spec.groups
        self.count = 0
        self.input_mean = torch.zeros(g, d, dtype=torch.float64)
        self.output_mean = torch.zeros(g, o, dtype=torch.float64)
        self.inputs = torch.zeros(g, d, d, dtype=torch.float64)
        self.cross = torch.zeros(g, o, d, dtype=torch.float64)
        self.energy = torch.zeros(g, dtype=torch.float64)

    @torch.no_grad()
    def update_(self, x: Tensor, y: Tensor) -> None:
        """Take in inputs (n, c_in, *size), of any size, and the outputs (n, c_out, *size_out) wanted for them."""
        spec = self._spec_of(x, y)
        windows, wanted = _windows(x.detach().cpu(), spec, self.padding_mode), y.detach().cpu().movedim(1, -1)
        rows = self._rows(len(x), spec.size_out)
        for chunk in torch.split(rows, max(1, CHUNK // (spec.c_in * math.prod(spec.kernel)))):
            at = torch.unravel_index(chunk, wanted.shape[:-1])
            self._add_(
                windows[at].to(torch.float64).reshape(len(chunk), spec.groups, -1).transpose(0, 1),
                wanted[at].to(torch.float64).reshape(len(chunk), spec.groups, -1).transpose(0, 1),
            )

    def merge_(self, other: Moments) -> None:
        """Take in what another one has seen of the same convolution."""
        if other.spec.weight_shape != self.spec.weight_shape or other.spec.groups != self.spec.groups:
            raise SpecError("Moments.merge_", given=str(other.spec), expected=f"moments of {self.spec}")
        self._combine_(other.count, other.input_mean, other.output_mean, other.inputs, other.cross, other.energy)

    def __str__(self) -> str:
        return f"moments of {self.count:,} patches of {self.spec}"

    def _add_(self, x: Tensor, y: Tensor) -> None:
        """Rows (g, n, d) and (g, n, c_out/g)."""
        input_mean, output_mean = x.mean(1), y.mean(1)
        x, y = x - input_mean[:, None], y - output_mean[:, None]
        self._combine_(x.shape[1], input_mean, output_mean, _gram(x), y.mT @ x, y.square().sum(dim=(1, 2)))

    def _combine_(
        self, count: int, input_mean: Tensor, output_mean: Tensor, inputs: Tensor, cross: Tensor, energy: Tensor
    ) -> None:
        """Chan, Golub and LeVeque (1983): moments about two means become moments about the common one."""
        if not count:
            return
        total = self.count + count
        x, y = input_mean - self.input_mean, output_mean - self.output_mean
        weight = self.count * count / total
        self.inputs += inputs + weight * x[:, :, None] * x[:, None, :]
        self.cross += cross + weight * y[:, :, None] * x[:, None, :]
        self.energy += energy + weight * y.square().sum(-1)
        self.input_mean += x * (count / total)
        self.output_mean += y * (count / total)
        self.count = total

    def _rows(self, images: int, size: tuple[int, ...]) -> Tensor:
        """Which of the images' places are read, as indices into (images, *size)."""
        places = math.prod(size)
        missing = ENOUGH * self.input_mean.shape[1] - self.count
        if self.positions is None or places <= max(self.positions, missing // images):
            return torch.arange(images * places)
        few = max(self.positions, missing // images)
        drawn = torch.rand(images, places, generator=self._generator).topk(few, dim=1, sorted=False).indices
        return (drawn + torch.arange(images)[:, None] * places).flatten()

    def _spec_of(self, x: Tensor, y: Tensor) -> ConvSpec:
        where = f"the data of {self.spec}"
        if x.dim() != self.spec.dims + 2 or x.shape[1] != self.spec.c_in or not len(x):
            expected = f"inputs (n, {self.spec.c_in}, {self.spec.dims} sizes), n from 1"
            raise DataError(where, given=f"inputs {tuple(x.shape)}", expected=expected)
        spec = self.spec.at(x.shape[2:])
        if tuple(y.shape) != (len(x), spec.c_out, *spec.size_out):
            expected = f"outputs {(len(x), spec.c_out, *spec.size_out)}"
            raise DataError(where, given=f"outputs {tuple(y.shape)}", expected=expected)
        for name, tensor in (("inputs", x), ("outputs", y)):
            if not tensor.isfinite().all():
                raise DataError(where, given=f"{name} that are NaN or infinite", expected="finite numbers")
        return spec


def response_error(weight: Tensor, moments: Moments) -> float:
    """The relative squared error, on the data, of the output with this weight and the best bias: ‖y − ŷ‖² / ‖y‖².

    Both about their means. Where the wanted output never changes there is no energy to be a share of: 0 if ŷ never
    changes either, else 1.
    """
    if tuple(weight.shape) != moments.spec.weight_shape:
        raise SpecError(
            f"the weight of {moments.spec}", given=tuple(weight.shape), expected=f"{moments.spec.weight_shape}"
        )
    rows = rows_of(weight, moments.spec)
    lost = float((moments.energy + ((rows @ moments.inputs - 2 * moments.cross) * rows).sum(dim=(1, 2))).sum())
    energy = float(moments.energy.sum())
    return max(lost, 0.0) / energy if energy > 0 else float(lost > 0)


def rows_of(weight: Tensor, spec: ConvSpec) -> Tensor:
    """A weight (c_out, c_in/g, *kernel) as rows (g, c_out/g, d) in float64, in the order of the moments."""
    return weight.detach().to("cpu", torch.float64).reshape(spec.groups, spec.c_out // spec.groups, -1)


def _gram(rows: Tensor) -> Tensor:
    """xᵀx of rows (g, n, d), the lower half of its blocks computed and the upper mirrored."""
    d = rows.shape[-1]
    gram = rows.new_empty(rows.shape[0], d, d)
    for start in range(0, d, BLOCK):
        block = rows[..., start : start + BLOCK]
        lower = rows[..., start:].mT @ block
        gram[:, start:, start : start + BLOCK] = lower
        gram[:, start : start + BLOCK, start:] = lower.mT
    return gram


def _windows(x: Tensor, spec: ConvSpec, padding_mode: str) -> Tensor:
    """Every patch as a view (n, *size_out, c_in, *kernel) of the padded input."""
    amounts = [amount for pair in reversed(spec.padding) for amount in pair]
    padded = F.pad(x, amounts, mode=PADDINGS[padding_mode]) if any(amounts) else x
    n, c, *steps = padded.stride()
    out = [step * stride for step, stride in zip(steps, spec.stride, strict=True)]
    taps = [step * dilation for step, dilation in zip(steps, spec.dilation, strict=True)]
    return padded.as_strided((len(x), *spec.size_out, spec.c_in, *spec.kernel), (n, *out, c, *taps))
