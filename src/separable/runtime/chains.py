"""Which convolutions may run as one chain. In: nodes of a network, layouts. Out: chains, and kernels to choose from.

A chain is a depthwise convolution with the pointwise one behind it and the one before it, where they are there and
nobody else reads the maps between. It pays where these maps are larger than the second-level cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from separable.kernels.chain import Chain, Link, Weighted, ring_rows
from separable.kernels.isa import Isa
from separable.kernels.layout import ITEM, Layout, panels
from separable.runtime import tiles
from separable.runtime.network import Convolve, Network, Node

BANDS = (16, 8, 4, 2, 1)
RING_BYTES = 256 * 1024  # of a chain: half of a second-level cache, and within every thread's stack
WORTH_BYTES = 256 * 1024  # the least size of a map between that may leave the cache


def find_chains(network: Network, readers: Mapping[str, Sequence[Node]]) -> dict[str, tuple[Node, ...]]:
    """The nodes of each chain by the name of its last; no node is in two."""
    by_name = {node.name: node for node in network.nodes}
    outputs = set(network.outputs.values())
    found: dict[str, tuple[Node, ...]] = {}
    taken: set[str] = set()

    def only_reader(node: Node) -> Node | None:
        behind = readers[node.name]
        is_alone = len(behind) == 1 and node.name not in outputs and node.name not in behind[0].inputs[1:]
        return behind[0] if is_alone else None

    for node in network.nodes:
        behind = only_reader(node)
        if not _is_depthwise(node) or behind is None or not _is_pointwise(behind):
            continue
        nodes: tuple[Node, ...] = (node, behind)
        before = by_name.get(node.inputs[0])
        if before is not None and before.name not in taken and len(before.inputs) == 1 and _is_pointwise(before):
            nodes = (before, *nodes) if only_reader(before) is node else nodes
        found[behind.name] = nodes
        taken |= {n.name for n in nodes}
    return found


def chain_of(
    nodes: Sequence[Node],
    maps: tuple[Layout, Layout, Layout | None],
    isa: Isa,
    threads: int,
    apart: Sequence[Weighted],
) -> Chain | None:
    """The chain of ``nodes`` in the highest bands that the cache holds; None where it cannot pay.

    ``maps``: what the first reads, what the last writes, and what it adds; ``apart``: the kernels without a chain.
    """
    if _largest_between(apart) < WORTH_BYTES:
        return None
    found = (_chain(nodes, maps, isa, threads, rows) for rows in BANDS)
    return next((chain for chain in found if chain), None)


def is_expected_to_pay(apart: Sequence[Weighted]) -> bool:
    """Whether a map between two links is larger than a second-level cache."""
    return _largest_between(apart) > 4 * WORTH_BYTES


def _largest_between(apart: Sequence[Weighted]) -> int:
    """Bytes of the largest map between two links."""
    return max(link.target.floats for link in apart[:-1]) * ITEM


def _chain(
    nodes: Sequence[Node], maps: tuple[Layout, Layout, Layout | None], isa: Isa, threads: int, rows: int
) -> Chain | None:
    specs = [node.operator.spec for node in nodes if isinstance(node.operator, Convolve)]
    if rows > specs[-1].size_out[0]:
        return None
    rings: list[Layout] = []
    kept = rows
    for spec, after in zip(specs[-2::-1], specs[:0:-1], strict=True):
        kept = ring_rows(after, kept)
        rings.insert(0, panels(spec.c_out, spec.size_out, isa.lanes, after.padding, ring=kept))  # type: ignore[arg-type]
    if sum(ring.floats for ring in rings) * ITEM > RING_BYTES:
        return None
    links: list[Link] = []
    for i, node in enumerate(nodes):
        is_last = i == len(nodes) - 1
        source, target = (maps[0], *rings)[i], (*rings, maps[1])[i]
        link = _link(node, (source, target, maps[2] if is_last else None), isa, threads, rows)
        if link is None:
            return None
        links.append(link)
    return Chain(links=tuple(links), rows=rows)


def _link(node: Node, maps: tuple[Layout, Layout, Layout | None], isa: Isa, threads: int, rows: int) -> Link | None:
    """The best kernel by the cost model among those that go by rows; a depthwise one that gives all threads as many."""
    operator = node.operator
    if not isinstance(operator, Convolve):
        return None
    spec = operator.spec
    if operator.is_depthwise:
        suitable = (
            kernel
            for kernel in tiles.depthwise(spec, maps, node.activation, isa, 1)
            if rows % kernel.rows == spec.size_out[0] % kernel.rows == 0 and kernel.is_unrolled
        )
        return min(suitable, key=lambda kernel: spec.size_out[0] // kernel.rows % threads != 0, default=None)
    return next(
        (
            kernel
            for kernel in tiles.convolutions(spec, maps, node.activation, isa, 1)
            if kernel.is_rowwise and kernel.tile.split == "pixels" and not kernel.tile.turns
        ),
        None,
    )


def _is_depthwise(node: Node) -> bool:
    operator = node.operator
    return (
        isinstance(operator, Convolve)
        and operator.is_depthwise
        and operator.spec.c_in == operator.spec.c_out
        and len(node.inputs) == 1
    )


def _is_pointwise(node: Node) -> bool:
    operator = node.operator
    if not isinstance(operator, Convolve) or operator.spec.groups > 1:
        return False
    spec = operator.spec
    return set(spec.kernel) == set(spec.stride) == {1} and not any(map(any, spec.padding))
