"""What could stand in for a convolution. In: a site. Out: the candidates worth a price, the site as it is first."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction

from separable.errors import SpecError
from separable.factor.families import FAMILIES
from separable.factor.family import Family, Rank
from separable.graph.sites import Site
from separable.spec import ConvSpec

KEEP = "keep"
# Shares of the original's MACs at which each family offers a rank.
SHARES = (Fraction(1, 8), Fraction(1, 6), Fraction(1, 4), Fraction(1, 3), Fraction(1, 2), Fraction(7, 10))
# The families whose rank is a number of terms: the first few are always worth a look.
TERMS = {"depthwise": (1, 2, 3, 4), "depthwise_last": (1, 2, 3, 4)}
# Vector registers hold 8 or 16 numbers: from 32 on, ranks between multiples of 8 cost the time of the next multiple.
WIDE, LANES = 32, 8


@dataclass(frozen=True, kw_only=True, order=True)
class Candidate:
    """One way to write a convolution: a family and its rank, or ``keep`` with no rank."""

    family: str
    rank: Rank = ()

    @property
    def is_kept(self) -> bool:
        """Whether the convolution stays as it is."""
        return self.family == KEEP

    @property
    def label(self) -> str:
        """To read.

        >>> Candidate(family="tucker", rank=(16, 24)).label
        'tucker 16×24'
        """
        return f"{self.family} {'×'.join(map(str, self.rank))}".strip()

    def chain(self, spec: ConvSpec) -> tuple[ConvSpec, ...]:
        """The convolutions that stand in for ``spec``, first applied first."""
        return (spec,) if self.is_kept else FAMILIES[self.family].specs(spec, self.rank)

    def __str__(self) -> str:
        return self.label


def propose(site: Site) -> tuple[Candidate, ...]:
    """``keep``, then the largest ranks of each family that cost at most 1/8, 1/6, 1/4, 1/3, 1/2 and 0.7 of the MACs.

    Ranks of several numbers grow in proportion to the full ones. The depthwise families also offer one to four terms.
    Nothing that needs as many MACs as the site itself.
    """
    return _proposed(site.specs)


def chain_macs(candidate: Candidate, site: Site) -> int:
    """Multiply-accumulates of all calls of the site, batch included, when it is written so.

    >>> spec = ConvSpec(64, 128, kernel=3, size=56, stride=2, padding=1)
    >>> site = Site(name="", spec=spec, sizes=((56, 56),), batch=1, padding_mode="zeros", bias=True)
    >>> chain_macs(Candidate(family="spatial", rank=(64,)), site)  # 64·64·3·28·56 and 64·128·3·28·28
    38535168
    """
    return site.batch * _macs(candidate, site.specs)


Calls = tuple[ConvSpec, ...]


@functools.lru_cache(maxsize=4096)  # networks repeat their layers
def _proposed(calls: Calls) -> tuple[Candidate, ...]:
    proposed = [Candidate(family=KEEP)]
    for name, family in FAMILIES.items():
        if family.refuses(calls[0]) is None:
            proposed += [Candidate(family=name, rank=rank) for rank in _ladder(family, calls)]
    return tuple(proposed)


def _ladder(family: Family, calls: Calls) -> list[Rank]:
    full = family.ranks(calls[0])
    whole = sum(spec.macs for spec in calls)
    ranks = {_largest(family, calls, share * whole) for share in SHARES}
    ranks |= {(terms,) for terms in TERMS.get(family.name, ()) if terms <= full[0]}
    found = [Candidate(family=family.name, rank=rank) for rank in sorted(filter(None, ranks))]
    return [candidate.rank for candidate in found if _macs(candidate, calls) < whole]


def _largest(family: Family, calls: Calls, macs: Fraction) -> Rank:
    """The largest rank within ``macs``, by bisection: MACs grow with the rank. () when there is none."""
    full = family.ranks(calls[0])
    low, high = 0, max(full)
    best: Rank = ()
    while low < high:
        middle = (low + high + 1) // 2
        candidate = _scaled(family, calls[0], full, middle)
        if candidate is None or _macs(candidate, calls) <= macs:
            low, best = middle, candidate.rank if candidate else best
        else:
            high = middle - 1
    return best


def _scaled(family: Family, spec: ConvSpec, full: Rank, steps: int) -> Candidate | None:
    """The full rank times ``steps`` / max(full), or the next smaller one that the family has; None when it has none."""
    for step in range(steps, 0, -1):
        rank = tuple(_round(max(1, entry * step // max(full))) for entry in full)
        try:
            family.specs(spec, rank)
        except SpecError:  # of several numbers some are too large for the others
            continue
        return Candidate(family=family.name, rank=rank)
    return None


def _round(rank: int) -> int:
    return rank - rank % LANES if rank >= WIDE else rank


def _macs(candidate: Candidate, calls: Calls) -> int:
    return sum(part.macs for spec in calls for part in candidate.chain(spec))
