"""What separable.plan.candidates promises: a ladder of ranks that is worth its prices."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from separable.errors import SpecError
from separable.factor import FAMILIES
from separable.graph import Site
from separable.plan import Candidate, propose
from separable.plan.candidates import chain_macs
from separable.spec import ConvSpec


def site_of(spec: ConvSpec, *sizes: tuple[int, ...], batch: int = 1) -> Site:
    return Site(name="conv", spec=spec, sizes=sizes or (spec.size,), batch=batch, padding_mode="zeros", bias=True)


@st.composite
def sites(draw: st.DrawFn) -> Site:
    dims, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 4]))
    kernel = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 5]), min_size=dims, max_size=dims)))
    c_in, c_out = (groups * draw(st.integers(1, 40)) for _ in range(2))
    stride = draw(st.integers(1, 2))
    spec = ConvSpec(c_in, c_out, kernel=kernel, size=(9,) * dims, stride=stride, padding=1, groups=groups)
    return site_of(spec, *[(9,) * dims, (7,) * dims][: draw(st.integers(1, 2))], batch=draw(st.integers(1, 3)))


@settings(max_examples=60, deadline=None)
@given(sites())
def test_keep_comes_first_and_everything_else_is_a_valid_form_with_fewer_macs(site: Site) -> None:
    proposed = propose(site)
    assert proposed[0] == Candidate(family="keep")
    assert len(set(proposed)) == len(proposed)
    for candidate in proposed[1:]:
        assert FAMILIES[candidate.family].specs(site.spec, candidate.rank)
        assert chain_macs(candidate, site) < site.macs


def test_a_large_convolution_is_offered_every_family_from_an_eighth_to_two_thirds() -> None:
    site = site_of(ConvSpec(256, 256, kernel=3, size=14, padding=1))
    shares: dict[str, list[float]] = {}
    for candidate in propose(site)[1:]:
        shares.setdefault(candidate.family, []).append(chain_macs(candidate, site) / site.macs)
    assert set(shares) == set(FAMILIES)
    for family, of in shares.items():
        assert of == sorted(of)
        assert 0.1 < of[0] <= 0.126, family
        assert 0.6 < of[-1] <= 0.7, family
    # Break-even of spatial at 3×3 is r = 1.5 c; a third of the MACs is r = c / 2.
    assert Candidate(family="spatial", rank=(128,)) in propose(site)


def test_wide_ranks_are_whole_vectors() -> None:
    for candidate in propose(site_of(ConvSpec(300, 500, kernel=3, size=14, padding=1)))[1:]:
        assert all(rank < 32 or rank % 8 == 0 for rank in candidate.rank)


def test_stride_is_charged_where_it_is_paid() -> None:
    # At stride 2 the first of the two spatial passes runs on all columns: r·64·3·28·56, then r·128·3·28·28.
    site = site_of(ConvSpec(64, 128, kernel=3, size=56, stride=2, padding=1), batch=2)
    assert chain_macs(Candidate(family="spatial", rank=(64,)), site) == 2 * 38_535_168


def test_every_call_is_charged() -> None:
    spec = ConvSpec(8, 8, kernel=3, size=8, padding=1)
    both = site_of(spec, (8, 8), (4, 4))
    candidate = Candidate(family="depthwise", rank=(2,))
    alone = [chain_macs(candidate, site_of(spec.at(size))) for size in both.sizes]
    assert chain_macs(candidate, both) == sum(alone)


def test_a_convolution_that_no_family_makes_cheaper_is_only_kept() -> None:
    assert propose(site_of(ConvSpec(2, 2, kernel=1, size=8))) == (Candidate(family="keep"),)


def test_a_rank_that_is_none_is_refused() -> None:
    with pytest.raises(SpecError):
        Candidate(family="spatial", rank=(10_000,)).chain(ConvSpec(8, 8, kernel=3, size=8))
