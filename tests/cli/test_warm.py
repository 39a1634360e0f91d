"""The warm command fills the cache that a training uses, and says how much of the files fits."""

from __future__ import annotations

import io
import json
import os
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from ai4os_data import DiskCache, StorageDataset, shrink
from tests.support.servers import WsgidavServer
from tests.support.shares import Share
from tests.support.tool import command, interrupt, tool

if TYPE_CHECKING:
    from pathlib import Path

FILES = {f"{number}.bin": os.urandom(50_000) for number in range(100)}


def picture(seed: int) -> bytes:
    """A photograph that shrinks."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def test_a_training_hits_what_was_warmed(share: Share, tmp_path: Path) -> None:
    """The first epoch needs no file from the network, with the same pattern and ``prepare``."""
    share.put({f"birds/{number}.jpg": picture(number) for number in range(8)} | {"birds/labels.txt": b"0"})
    typed = ("warm", f"rshare:{share.name}/birds", "-p", "*.jpg", "--shrink", "64", "--cache", tmp_path / "cache")
    ended = tool(*typed, environ=share.environ())
    assert ended.returncode == 0
    assert ended.stdout.startswith("8 of 8 files (")
    assert str(tmp_path / "cache") in ended.stdout
    dataset = StorageDataset(
        f"{share.location}/birds",
        remote=share.remote,
        pattern="*.jpg",
        decode="image",
        prepare=shrink(64),
        cache=DiskCache(tmp_path / "cache"),
    )
    assert {dataset[number].size for number in range(8)} == {(64, 48)}
    assert (dataset.stats()["hits"], dataset.stats()["misses"]) == (8, 0)
    assert json.loads(tool(*typed, "--json", environ=share.environ()).stdout)["bytes_from_network"] == 0


def test_warm_says_how_much_fits(share: Share, tmp_path: Path) -> None:
    """What it says is what a training then hits."""
    share.put({f"birds/{key}": data for key, data in FILES.items()})
    small = ("--cache", tmp_path / "cache", "--cache-size", "2MiB")
    ended = tool("warm", f"rshare:{share.name}/birds", *small, "--json", environ=share.environ())
    found = json.loads(ended.stdout)
    assert (ended.returncode, found["files"], found["bytes"], found["failed"]) == (0, 100, 5_000_000, 0)
    assert 15 < found["files_in_cache"] < 45
    assert found["bytes_in_cache"] == 50_000 * found["files_in_cache"]
    dataset = StorageDataset(
        f"{share.location}/birds", remote=share.remote, cache=DiskCache(tmp_path / "cache", "2MiB")
    )
    assert [*dataset.__getitems__(range(100))] == [FILES[key] for key in dataset.keys]
    assert dataset.stats()["hits"] == pytest.approx(found["files_in_cache"], abs=2)  # its index grows meanwhile
    said = tool("warm", f"rshare:{share.name}/birds", *small, environ=share.environ()).stdout
    assert "The cache is full, with a limit of 2 MiB" in said


def test_warm_goes_on_after_ctrl_c(tmp_path: Path) -> None:
    """One line and exit code 130; the next call fetches the rest alone."""
    with WsgidavServer(tmp_path / "slow", latency_s=0.3) as server:
        share = Share(server)
        share.put({f"birds/{number}-{key}": data[:1000] for key, data in FILES.items() for number in range(4)})
        environ = {**os.environ, **share.environ()}
        typed = ("warm", f"rshare:{share.name}/birds", "--cache", tmp_path / "cache", "-q")
        process = subprocess.Popen(command(*typed), stderr=subprocess.PIPE, text=True, env=environ)
        interrupt(process, lambda: len([*tmp_path.glob("cache/objects/*/*")]) > 20)
        _, told = process.communicate(timeout=60)
        assert (process.returncode, told) == (130, "ai4os-data: interrupted\n")
        ended = tool(*typed, "--json", environ=share.environ())
        found = json.loads(ended.stdout)
        assert (ended.returncode, found["files_in_cache"]) == (0, 400)
        assert found["bytes_from_network"] <= 380_000


def test_a_directory_needs_no_cache(tmp_path: Path) -> None:
    """A training reads it in place."""
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "a.bin").write_bytes(b"1")
    ended = tool("warm", tmp_path / "birds")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "nothing to do" in ended.stderr


@pytest.mark.parametrize("size", ["10KiB", "0"])
def test_a_cache_that_is_too_small_is_refused(share: Share, size: str) -> None:
    """The message is the library's own."""
    share.put({"birds/a.bin": b"1"})
    ended = tool("warm", f"rshare:{share.name}/birds", "--cache-size", size, environ=share.environ())
    assert ended.returncode == 1
    assert "cannot hold its own bookkeeping" in ended.stderr
