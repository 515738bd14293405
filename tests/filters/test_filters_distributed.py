"""Dask's workers on a local cluster. In: an image in chunks, two processes. Out: the bits of one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from separable.filters.apply import apply
from separable.filters.prepared import Options
from separable.filters.terms import Term, Terms

distributed = pytest.importorskip("distributed")
da = pytest.importorskip("dask.array")


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of two processes of one thread each."""
    folder: Path = tmp_path_factory.mktemp("workers")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            local_directory=str(folder),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def kernel(*lengths: int) -> Terms:
    rng = np.random.default_rng(1)
    return Terms(terms=(Term(kernels=tuple(rng.random(n) / n for n in lengths)),))


@pytest.mark.parametrize(("rule", "nan"), [("wrap", "propagate"), ("constant", "propagate"), ("constant", "omit")])
def test_two_workers_give_the_bits_of_one_process(workers: Any, rule: str, nan: Any) -> None:
    image = np.random.default_rng(0).random((260, 230), np.float32)
    image[3, 4] = np.nan if nan == "omit" else 0
    terms, options = kernel(21, 8), Options(nan=nan)
    lazy = apply(da.from_array(image, chunks=(64, 70)), terms, rule, options=options)
    done = workers.persist(lazy)
    distributed.wait(done)
    held = workers.has_what()
    assert len(held) == 2
    assert all(held.values()), "each of the two has done chunks"
    np.testing.assert_array_equal(done.compute(), apply(image, terms, rule, options=options))
