"""Every family by its name. In: a name. Out: the family: what it refuses, its ranks, its chain, its maths."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from separable.factor.channel import CHANNEL
from separable.factor.depthwise import DEPTHWISE, DEPTHWISE_LAST
from separable.factor.family import Family
from separable.factor.spatial import SPATIAL
from separable.factor.tucker import TUCKER

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {family.name: family for family in (SPATIAL, DEPTHWISE, DEPTHWISE_LAST, CHANNEL, TUCKER)}
)
