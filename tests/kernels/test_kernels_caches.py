"""Sizes of caches. In: folders as Linux has them. Out: the largest one."""

from __future__ import annotations

from pathlib import Path

from separable.kernels.caches import UNKNOWN, last_cache_bytes


def test_the_largest_cache_is_the_last(tmp_path: Path) -> None:
    for index, size in enumerate(("32K", "32K", "512K", "12288K")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    assert last_cache_bytes(tmp_path) == 12 * 1024 * 1024


def test_a_system_that_says_nothing_has_an_assumed_one(tmp_path: Path) -> None:
    (tmp_path / "index0").mkdir()
    (tmp_path / "index0" / "size").write_text("large")
    assert last_cache_bytes(tmp_path) == UNKNOWN
