"""Shared by the tests of kernels. Out: every level that this machine runs, and a cache folder of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from separable.kernels.isa import Isa, host, levels


@pytest.fixture(params=levels())
def isa(request: pytest.FixtureRequest) -> Isa:
    """Each level in turn."""
    return host(request.param)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Machine code is kept apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("SEPARABLE_CACHE", str(folder))
        yield folder
