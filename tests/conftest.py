"""For every test: measurements are kept in a folder that goes away with the run, not in the person's own cache."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEPARABLE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
