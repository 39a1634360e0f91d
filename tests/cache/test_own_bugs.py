"""A bug of ours is never taken for a damaged disk: it flies, and is not answered by a cache that stores nothing."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, NoReturn

import pytest

from ai4os_data.cache import CachedStore, DiskCache
from ai4os_data.cache.index import Index
from ai4os_data.cache.ledger import Ledger
from ai4os_data.cache.rows import Rows
from tests.support.crowd import Warnings, wrong_keys
from tests.support.sources import source

if TYPE_CHECKING:
    from pathlib import Path

KiB = 1024
BUGS = [AttributeError, KeyError, AssertionError, TypeError, ValueError, sqlite3.ProgrammingError]


@pytest.mark.parametrize("bug", BUGS)
@pytest.mark.parametrize(
    ("owner", "method"),
    [(Ledger, "_grant"), (Rows, "enter"), (Rows, "open"), (Index, "enter"), (Index, "sum_bytes")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_bug_of_ours_reaches_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, bug: type[Exception]
) -> None:
    """A read that needs room raises the bug's error; the index is not made anew, and works once the bug is gone."""
    files = source([100 * KiB] * 4, "bug")
    cache = DiskCache(tmp_path, "8MiB")
    cached = CachedStore(files, cache)
    assert wrong_keys(cached, files, files.list()[:2]) == []
    cache.close()
    before = (tmp_path / "index" / "cache.db").stat().st_ino

    def broken(*_: object, **__: object) -> NoReturn:
        raise bug("of ours")

    with monkeypatch.context() as patch, Warnings() as warnings:
        patch.setattr(owner, method, broken)
        with pytest.raises(bug, match="of ours"):
            list(cached.read_many(files.list()[2:]))
        with pytest.raises(bug, match="of ours"):
            cache.stats()
    assert warnings == []
    assert wrong_keys(cached, files, files.list()) == []
    assert cache.stats()["entries"] == 4
    assert (tmp_path / "index" / "cache.db").stat().st_ino == before
