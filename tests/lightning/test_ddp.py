"""Two ranks share one cache and the data between them; Lightning resumes both where they were."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ranks_of_loaders import epochs_of_ranks

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.shares import Share


def test_ranks_share_a_cache_and_fetch_each_file_once(share: Share, tmp_path: Path) -> None:
    """In two epochs every sample comes to exactly one rank, and every file is requested once."""
    share.put({f"{number:02}.txt": str(number) for number in range(32)})
    first, second = epochs_of_ranks(share, tmp_path, epochs=2)
    for epoch in range(2):
        seen = [number for batch in [*first[epoch], *second[epoch]] for number in batch]
        assert sorted(seen) == list(range(32))
    assert sorted(share.read_keys()) == [f"{number:02}.txt" for number in range(32)]


def test_uneven_lengths_end_together(share: Share, tmp_path: Path) -> None:
    """The shorter share is filled up, so that no rank waits for another; no sample is missing."""
    share.put({f"{number:02}.txt": str(number) for number in range(13)})
    first, second = epochs_of_ranks(share, tmp_path, epochs=1)
    assert len(first[0]) == len(second[0])
    assert {number for batch in [*first[0], *second[0]] for number in batch} == set(range(13))
    assert sum(len(batch) for batch in [*first[0], *second[0]]) == 14


def test_ranks_of_lightning_go_on_with_the_same_weights(share: Share, tmp_path: Path) -> None:
    """After SIGKILL of both in mid-epoch the weights are bit for bit those of a training that was left alone."""
    pytest.importorskip("lightning", reason="lightning is not installed")
    from tests.support.lit import start

    ddp: dict[str, Any] = {"strategy": "ddp", "devices": 2}
    alone = start(share, tmp_path, "alone", every=2, ranks=2, **ddp)
    assert alone.returncode == 0, alone.stderr
    killed = start(share, tmp_path, "killed", every=2, signal_at=4, number=signal.SIGKILL, spool="1", ranks=2, **ddp)
    assert killed.returncode != 0
    last = start(share, tmp_path, "killed", every=2, spool="2", ranks=2, **ddp)
    assert last.returncode == 0, last.stderr
    assert "Restored all states" in last.stderr
    assert json.loads((tmp_path / "killed.json").read_text()) == json.loads((tmp_path / "alone.json").read_text())


def test_ranks_of_lightning_are_told_the_same_best_score(share: Share, tmp_path: Path) -> None:
    """Each rank measures something else; all have one score before, during and after a training and a restart."""
    pytest.importorskip("lightning", reason="lightning is not installed")
    from ai4os_data import StorageCheckpoint
    from tests.support.lit import start

    ddp: dict[str, Any] = {"strategy": "ddp", "devices": 2}
    for attempt in (1, 2):
        ended = start(share, tmp_path, "run", spool=f"{attempt}", ranks=2, monitor="loss", max_epochs=attempt, **ddp)
        assert ended.returncode == 0, ended.stderr
        one, two = (json.loads((tmp_path / f"run.json.{rank}").read_text()) for rank in range(2))
        assert one == two
        assert (one[0] is None) == (attempt == 1)
        with StorageCheckpoint(f"{share.location}/run", remote=share.remote, spool=tmp_path / "looking") as run:
            assert one[-1] == min(found.metrics["loss"] for found in run.list())
