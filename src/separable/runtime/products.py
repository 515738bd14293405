"""Which layers take fewer multiplications. In: a layer's shapes and layouts. Out: kernels, best first.

Dense 3×3 layers by Winograd's way, pointwise ones by Strassen's. Their weights take 1.8 to 4 times the memory, and they
are offered only where the cost model sees a gain. Measuring then has the last word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

from separable.kernels.convolution import Convolution, Tile
from separable.kernels.epilogue import Activation
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout
from separable.kernels.products import Products
from separable.kernels.strassen import Strassen
from separable.kernels.winograd import Winograd
from separable.runtime.tiles import convolutions, cycles, imbalance, shapes, strip_cycles
from separable.spec import ConvSpec

Maps = tuple[Layout, Layout, Layout | None]
GAIN = {Winograd: 1.25, Strassen: 1.02}  # times as fast: the least that a kernel must promise
OFFERED = {Winograd: 3, Strassen: 2}  # so that the best other ones are measured with them
TRANSFORMED = {Winograd: 4.5, Strassen: 2.0}  # cycles for a vector of each product, from the input or to the output
SCRATCH_BYTES = (640 * 1024, 256 * 1024)  # on a thread's stack: the smaller unless more is faster
FROM_MEMORY = 6.0  # bytes of weights a cycle


def dense(
    spec: ConvSpec, maps: Maps, activation: Activation, isa: Isa, threads: int
) -> list[Convolution | Winograd | Strassen]:
    """The kernels for a layer that is no link of a chain; ``maps`` are source, target and residual."""
    plain = convolutions(spec, maps, activation, isa, threads)
    fewer = with_fewer_multiplications(spec, maps, activation, isa, threads)
    if not fewer or GAIN[type(fewer[0])] * product_cycles(fewer[0], isa, threads) > cycles(plain[0], isa, threads):
        return [*plain]
    if isinstance(fewer[0], Strassen):  # an eighth at most: only what is measured counts
        return [plain[0], *fewer[: OFFERED[Strassen]], *plain[1:]]
    return [*fewer[: OFFERED[Winograd]], *plain]


def with_fewer_multiplications(
    spec: ConvSpec, maps: Maps, activation: Activation, isa: Isa, threads: int
) -> list[Winograd] | list[Strassen]:
    """The best kernel of each shape, best first; none for layers that have no such way."""
    source, target, residual = maps
    if source.lanes != isa.lanes or source.ring or spec.groups > 1 or spec.dilation != (1, 1):
        return []
    form: dict[str, Any] = {
        "spec": spec,
        "source": source,
        "target": target,
        "residual": residual,
        "activation": activation,
    }
    if spec.kernel == (3, 3) and spec.stride == (1, 1):
        widths = (width for width in (4, 2) if min(spec.size_out) >= width)
        return _best([Winograd(width=width, tile=ANY, **form) for width in widths], isa, threads)
    is_pointwise = spec.kernel == (1, 1) and not any(map(any, spec.padding)) and target.pixels > 1
    if is_pointwise and spec.c_in % (2 * isa.lanes) == 0 and target.panels % 2 == 0:
        return _best([Strassen(tile=ANY, **form)], isa, threads)
    return []


ANY = Tile(pixels=1, vectors=1, block=1)
Form = TypeVar("Form", bound=Products)


def _best(forms: list[Form], isa: Isa, threads: int) -> list[Form]:
    """The best one of each form and shape of tile, best first."""
    kernels = [replace(form, tile=tile) for form in forms for tile in _tiles(form, isa, threads)]
    kernels.sort(key=lambda kernel: product_cycles(kernel, isa, threads), reverse=True)
    best = {(kernel.products, kernel.tile.pixels, kernel.tile.vectors): kernel for kernel in kernels}
    return sorted(best.values(), key=lambda kernel: product_cycles(kernel, isa, threads))


def product_cycles(kernel: Products, isa: Isa, threads: int) -> float:
    """Predicted cycles of the busiest thread, times the threads."""
    tile = kernel.tile
    strips = sum(strip_cycles(tile.pixels, width, kernel.depth, isa) for width, _ in kernel.strips.kinds)
    groups, gathers = -(-kernel.units // tile.pixels), threads if tile.split == "channels" else 1
    weights = ITEM * kernel.weight_floats(isa) * kernel.blocks
    vectors = kernel.units * kernel.products * (kernel.panels_in * gathers + kernel.panels_out)
    products = max(kernel.products * strips * groups, weights / FROM_MEMORY)
    return products * imbalance(kernel, threads) + TRANSFORMED[type(kernel)] * isa.passes * vectors


def _tiles(form: Products, isa: Isa, threads: int) -> Iterator[Tile]:
    """Blocks of even size that the scratch memory holds: as many for each thread, or all of them for some channels."""
    for pixels, vectors in shapes(form.panels_out, isa):
        of_a_unit = form.products * isa.lanes * ITEM * (form.panels_in + vectors)
        by_channels = [("channels", 1)] if -(-form.panels_out // vectors) >= 2 * threads > 2 else []
        for split, together in (*by_channels, ("pixels", threads)):
            for room in SCRATCH_BYTES:
                held = room // (of_a_unit * pixels) * pixels
                if held:
                    blocks = -(-form.units // (held * together)) * together
                    groups = -(-form.units // (blocks * pixels))
                    yield Tile(pixels=pixels, vectors=vectors, block=groups, split=split)
