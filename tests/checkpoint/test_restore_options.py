"""The caller of restore chooses the device and what may be unpickled; any fsspec store serves."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
import torch

from ai4os_data import errors
from ai4os_data.checkpoint.manifest import FileFacts, Manifest
from ai4os_data.checkpoint.names import AttemptName, CheckpointName, state_file
from ai4os_data.stores import open_store
from tests.support.runs import open_run, restored_step, save_steps, state_of, steps_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def test_tensors_go_where_they_are_wanted(tmp_path: Path) -> None:
    """The device may be given by name, device, mapping or callable; the default is the CPU."""
    seen: Counter[str] = Counter()

    def keep(storage: torch.UntypedStorage, place: str) -> torch.UntypedStorage:
        seen[place] += 1
        return storage

    with open_run(tmp_path / "run", tmp_path) as run:
        save_steps(run, 1)
        for map_location, device in (
            ("cpu", "cpu"),
            (torch.device("meta"), "meta"),
            ("meta", "meta"),
            ({"cpu": "meta"}, "meta"),
            (keep, "cpu"),
        ):
            restored = run.restore(map_location=map_location)
            assert restored is not None
            assert restored["weights"].device.type == device
            assert restored["weights"].shape == state_of(1)["weights"].shape
        default = run.restore()
        assert default is not None
        assert default["weights"].device.type == "cpu"
    assert set(seen) == {"cpu"}


def save_by_hand(place: Path, state: dict[str, object]) -> None:
    """Store a checkpoint that we would not write: its state holds an object of a class."""
    name = CheckpointName.new(AttemptName.new(1), 1)
    beside = place.with_name("beside")
    torch.save({"state": state, "ranks": [{"random": None, "state": {}}], "arrays": {}}, beside)
    data = beside.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    file = state_file(sha256)
    store = open_store(place, create=True)
    store.write(f"{name}/{file}", data)
    store.write(f"{name}/MANIFEST.json", Manifest(name, {file: FileFacts(len(data), sha256)}).to_json())


def test_objects_are_unpickled_only_where_that_is_asked_for(tmp_path: Path) -> None:
    """Even then the sha256 has to match its manifest; by default the error refuses it."""
    save_by_hand(tmp_path / "run", {"third": Fraction(1, 3)})
    with open_run(tmp_path / "run", tmp_path) as run:
        assert run.verify() == {}
        with pytest.raises(errors.StorageError, match=r"weights_only|Weights only|Fraction"):
            run.restore()
        restored = run.restore(weights_only=False)
        assert restored is not None
        assert restored["third"] == Fraction(1, 3)


class Trap:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        """Name the function that is called."""
        return os.mkdir, (self.path,)


def test_nothing_is_run_by_default_or_where_the_hash_is_wrong(tmp_path: Path) -> None:
    """A file that replaced a state is not even opened."""
    trap = tmp_path / "sprung"
    save_by_hand(tmp_path / "run", {"x": Trap(str(trap))})
    with open_run(tmp_path / "run", tmp_path) as run, pytest.raises(errors.StorageError):
        run.restore()
    (path,) = (tmp_path / "run").glob("*/*/state-*.pt")
    path.write_bytes(path.read_bytes() + b"\0")
    with open_run(tmp_path / "run", tmp_path) as run, pytest.raises(errors.DamagedError):
        run.restore(weights_only=False)
    assert not trap.exists()


@pytest.fixture
def bucket() -> Iterator[str]:
    """A URL of fsspec's memory, which stands for a bucket: no folders, no renames, verified by reading back."""
    name = f"bucket-{uuid.uuid4().hex}"
    yield f"memory://{name}/run"
    system = open_store(f"memory://{name}", create=True)
    for entry in system.list_below(""):
        system.delete(entry.key)


def test_run_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    """Saves are confirmed, older ones are removed, another machine restores the newest, and damage is named."""
    with open_run(bucket, tmp_path, keep_last=2) as run:
        assert run.saver.best_level == "confirmed"
        assert run.save(state_of(1), 1).wait(timeout_s=20) == "confirmed"
        save_steps(run, 2, 3)
        assert steps_of(run) == [3, 2]
        assert run.verify() == {}
    store = open_store(bucket, create=True)
    assert len(store.list_below("")) == 5, "two checkpoints of two files, and the mark of the attempt"
    (newest,) = [entry for entry in store.list_below("") if "step-000000003" in entry.key and ".pt" in entry.key]
    with open_run(bucket, tmp_path, "other", keep_last=2) as run:
        assert restored_step(run) == 3
    data = bytearray(store.read(newest.key))
    data[len(data) // 2] ^= 1
    store.write(newest.key, bytes(data))
    with open_run(bucket, tmp_path, "third", keep_last=2) as run:
        restored = run.restore()
        assert restored is not None
        assert (restored.step, len(restored.skipped)) == (2, 1)
        save_steps(run, 4)
    with open_run(bucket, tmp_path, "fourth") as run:
        assert restored_step(run) == 4
