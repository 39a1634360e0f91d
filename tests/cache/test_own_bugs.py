"""A bug of ours is never taken for a damaged disk: it flies, and is not answered by a cache that stores nothing."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from ai4os_data.cache import CachedStore, DiskCache
from ai4os_data.cache.budget import Budget
from ai4os_data.cache.claims import Claim
from ai4os_data.cache.disk_cache import session_of
from ai4os_data.cache.index import Index
from ai4os_data.cache.ledger import Ledger
from ai4os_data.cache.lookup import Lookup
from ai4os_data.cache.objects import Objects
from ai4os_data.cache.rows import Rows
from ai4os_data.cache.session import Session
from ai4os_data.cache.staged import Staged
from tests.support.crowd import Warnings, wrong_keys
from tests.support.sources import source

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ai4os_data.stores import Entry

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


def unclaimed(cached: CachedStore, entries: Iterable[Entry]) -> bool:
    """Whether nobody has claims on these: who has one and does nothing makes every other reader wait for minutes."""
    session = session_of(cached.cache)
    found = [session.claim(cached.name(entry)) for entry in entries]
    for claim in found:
        if isinstance(claim, Claim):
            session.give_up(claim)
    return None not in found


@pytest.mark.parametrize("bug", BUGS)
@pytest.mark.parametrize(
    ("owner", "method"),
    [(Lookup, "newer"), (Claim, "write_pieces"), (Objects, "publish"), (Session, "store"), (Budget, "give_back")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_bug_of_ours_leaves_no_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, bug: type[Exception]
) -> None:
    """Whatever a fill meets, its claims end, so that the next read fetches the files and waits for nobody."""
    files = source([100 * KiB] * 4, "claims")
    cached = CachedStore(files, DiskCache(tmp_path, "8MiB"))
    right = getattr(owner, method)
    done: list[str] = []

    def broken(*args: Any, **options: Any) -> Any:
        if done:
            return right(*args, **options)
        done.append(method)
        raise bug("of ours")

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, broken)
        with pytest.raises(bug, match="of ours"):
            list(cached.read_many(files.list()))
    assert unclaimed(cached, files.list())
    assert wrong_keys(cached, files, files.list()) == []


def test_bug_while_claiming_leaves_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim is looked at once more as soon as it is had; if that fails, it ends."""
    files = source([100 * KiB] * 2, "claiming")
    cached = CachedStore(files, DiskCache(tmp_path, "8MiB"))
    with monkeypatch.context() as patch:
        looks: list[str] = []

        def broken(_: Session, name: str) -> None:
            looks.append(name)
            if len(looks) == 2:
                raise AttributeError("of ours")

        patch.setattr(Session, "_there", broken)
        with pytest.raises(AttributeError, match="of ours"):
            list(cached.read_many(files.list()))
    assert unclaimed(cached, files.list())


def test_bug_while_dropping_leaves_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claims of a request that is given up all end, also if their files cannot be dropped."""
    files = source([100 * KiB] * 4, "dropping")
    cached = CachedStore(files, DiskCache(tmp_path, "8MiB"))
    with monkeypatch.context() as patch:
        patch.setattr(Staged, "drop", lambda _: getattr(_, "of ours"))
        patch.setattr(Objects, "publish", lambda _: None)  # takes no arguments
        with pytest.raises(AttributeError, match="of ours"):
            list(cached.read_many(files.list()))
    assert unclaimed(cached, files.list())
