"""Chains of convolutions in bands of rows. In: odd shapes, bands, shares. Out: what the links give one by one."""

import numpy as np
import pytest
from guarded import run

from separable.errors import SpecError
from separable.kernels import reference
from separable.kernels.catalogue import source_of
from separable.kernels.chain import OF_A_LINK, Chain, Link, ring_rows
from separable.kernels.convolution import Convolution, Tile
from separable.kernels.depthwise import Depthwise
from separable.kernels.epilogue import Activation
from separable.kernels.isa import Isa
from separable.kernels.layout import panels, planar
from separable.spec import ConvSpec

RELU6 = Activation(kind="clamp", low=0.0, high=6.0)


def chain_of(specs: tuple[ConvSpec, ...], isa: Isa, rows: int, *, adds: bool = False, tall: int = 1) -> Chain:
    """Links with rings of just the rows that a band needs; ``tall``: rows of a depthwise tile."""
    links: list[Link] = []
    first = specs[0]
    source = panels(first.c_in, first.size, isa.lanes, first.padding)
    if first.c_in < isa.lanes and first.groups == 1:
        source = planar(first.c_in, first.size, first.padding)
    for i, spec in enumerate(specs):
        is_last = i == len(specs) - 1
        if is_last:
            target = panels(spec.c_out, spec.size_out, isa.lanes, ((1, 0), (2, 1)))
        else:
            kept = rows
            for later in specs[:i:-1]:
                kept = ring_rows(later, kept)
            target = panels(spec.c_out, spec.size_out, isa.lanes, specs[i + 1].padding, ring=kept)
        residual = source_of_the_block(specs, isa) if adds and is_last else None
        activation = Activation() if is_last else RELU6
        if spec.groups > 1:
            link: Link = Depthwise(
                spec=spec, source=source, target=target, rows=tall, columns=3, activation=activation, residual=residual
            )
        else:
            link = Convolution(
                spec=spec,
                source=source,
                target=target,
                tile=Tile(pixels=3, vectors=2, block=2),
                activation=activation,
                residual=residual,
            )
        links.append(link)
        source = target
    return Chain(links=tuple(links), rows=rows)


def source_of_the_block(specs: tuple[ConvSpec, ...], isa: Isa):
    return panels(specs[-1].c_out, specs[-1].size_out, isa.lanes, ((0, 1), (1, 0)))


def agrees(chain: Chain, isa: Isa, *, shares: int = 1) -> None:
    rng = np.random.default_rng(chain.spec.macs)
    first = chain.links[0].spec
    x = rng.standard_normal((first.c_in, *first.size)).astype(np.float32).astype(np.float64)
    inputs, constants, expected = {0: (chain.source, x, 0.0)}, {}, x
    for i, link in enumerate(chain.links):
        spec = link.spec
        weight = (rng.standard_normal(spec.weight_shape) / spec.weight_shape[1] ** 0.5).astype(np.float32)
        bias = rng.standard_normal(spec.c_out).astype(np.float32)
        expected = reference.convolve(expected, weight.astype(np.float64), bias.astype(np.float64), spec)
        if link.residual is not None:
            beside = rng.standard_normal(expected.shape).astype(np.float32).astype(np.float64)
            inputs[OF_A_LINK * i + 4] = (link.residual, beside, float("nan"))
            expected = expected + beside
        expected = reference.activate(expected, link.activation)
        constants |= {OF_A_LINK * i + 1: link.pack(weight, isa), OF_A_LINK * i + 2: link.pack_bias(bias, isa)}
    got = run(chain, isa, inputs, constants, threads=shares)
    assert np.abs(got - expected).max() < 1e-4


def block(expand: int, out: int, size: tuple[int, int], **how: object) -> tuple[ConvSpec, ConvSpec, ConvSpec]:
    """Pointwise, depthwise, pointwise."""
    middle = ConvSpec(expand, expand, how.pop("kernel", 3), size, groups=expand, **how)
    return ConvSpec(11, expand, 1, size), middle, ConvSpec(expand, out, 1, middle.size_out)


BLOCKS = {
    "a 3×3": block(19, 13, (9, 7), padding=1),
    "a strided 3×3": block(19, 13, (9, 7), padding=1, stride=2),
    "a strided 3×3 with its padding below": block(19, 13, (8, 10), padding=((0, 1), (0, 1)), stride=2),
    "a 5×5": block(10, 24, (8, 11), kernel=5, padding=2),
    "a dilated 3×3": block(8, 8, (11, 9), padding=2, dilation=2),
    "a 3×3 without padding": block(16, 7, (7, 8)),
    "stride 3 leaves rows out": block(9, 9, (10, 10), stride=3),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("rows", [1, 2, 50])
def test_a_block_in_bands_is_the_block(name: str, rows: int, isa: Isa) -> None:
    for shares in (1, 2, 5):
        agrees(chain_of(BLOCKS[name], isa, rows), isa, shares=shares)


def test_a_residual_is_added_by_the_last_link(isa: Isa) -> None:
    agrees(chain_of(block(20, 11, (6, 5), padding=1), isa, 2, adds=True), isa, shares=2)


def test_a_chain_may_begin_with_the_depthwise_layer(isa: Isa) -> None:
    for tall in (1, 2):
        for shares in (1, 3, 4):  # of even size, which is no whole number of bands
            agrees(chain_of(block(12, 17, (8, 7), padding=1)[1:], isa, 4, tall=tall), isa, shares=shares)


def test_a_chain_may_begin_with_the_stem(isa: Isa) -> None:
    stem = ConvSpec(3, 10, 3, (17, 13), stride=2, padding=1)
    after = ConvSpec(10, 10, 3, stem.size_out, padding=1, groups=10)
    agrees(chain_of((stem, after, ConvSpec(10, 9, 1, after.size_out)), isa, 2), isa, shares=2)


def test_links_that_do_not_fit_are_refused(isa: Isa) -> None:
    whole = chain_of(block(12, 17, (8, 7), padding=1), isa, 4)
    with pytest.raises(SpecError, match="ring between two"):
        source_of(Chain(links=(whole.links[0], whole.links[2]), rows=4), isa)
    with pytest.raises(SpecError, match="whole tiles of rows"):
        source_of(chain_of(block(12, 17, (9, 7), padding=1), isa, 4, tall=2), isa)
