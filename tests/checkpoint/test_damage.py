"""Flipped, cut or missing bytes are noticed: restore takes an older checkpoint, and the log says why."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ai4os_data import errors
from ai4os_data.stores import DirectoryStore
from tests.support.runs import open_run, restored_step, save_steps, state_of
from tests.support.shares import Share
from tests.support.sources import new_seed

if TYPE_CHECKING:
    from ai4os_data.stores import Level


Damage = Callable[[Path, random.Random], None]


def flip(path: Path, chance: random.Random) -> None:
    """Flip a bit at a random position."""
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def cut(path: Path, chance: random.Random) -> None:
    """Cut the file at a random position."""
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])


def remove(path: Path, _: random.Random) -> None:
    """Remove it."""
    path.unlink()


DAMAGES = pytest.mark.parametrize("damage", [flip, cut, remove])
FILES = pytest.mark.parametrize("file", ["state-*.pt", "MANIFEST.json"])


@pytest.fixture(scope="module")
def seed() -> int:
    """Return the seed of all damages; it is printed."""
    return new_seed()


@pytest.fixture
def chance(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """Return random choices that follow from the seed and the test's name."""
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture(params=["apache", "nextcloud"])
def share(request: pytest.FixtureRequest) -> Share:
    """Return a folder on a server that is read back, and on one that hashes by itself."""
    return Share(request.getfixturevalue(request.param))


def file_of(place: Path, step: int, pattern: str) -> Path:
    """Find a file of the checkpoint of a step."""
    (path,) = place.glob(f"*/step-{step:09d}-*/{pattern}")
    return path


def check_fallback(damaged: Path, place: str | Path, tmp_path: Path, spool: str, **options: Any) -> None:
    """Assert that step 1 is restored, since a file of step 2 is damaged, and that the log names step 2."""
    name = f"{damaged.parent.parent.name}/{damaged.parent.name}"
    with open_run(place, tmp_path, spool, **options) as run:
        assert (name in run.verify()) == (damaged.name != "MANIFEST.json" or damaged.exists())
        restored = run.restore()
        assert restored is not None
        assert restored.step == 1
        assert torch.equal(restored["weights"], state_of(1)["weights"])
        assert list(restored.skipped) == [name]


@DAMAGES
@FILES
def test_damaged_checkpoint_is_skipped_and_named(
    damage: Damage, file: str, chance: random.Random, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After damage at twenty random places the checkpoint before is restored."""
    for number in range(20 if damage is not remove else 1):
        place = tmp_path / f"run-{number}"
        with open_run(place, tmp_path) as run:
            save_steps(run, 1, 2)
        path = file_of(place, 2, file)
        damage(path, chance)
        caplog.clear()
        check_fallback(path, place, tmp_path, f"other-{number}")
        assert path.parent.name in caplog.text


@DAMAGES
@FILES
def test_damage_on_a_server_is_noticed_too(
    damage: Damage, file: str, share: Share, chance: random.Random, tmp_path: Path
) -> None:
    """Bytes that come back over the network are hashed, or the server hashes them; three damages each."""
    for number in range(3 if damage is not remove else 1):
        place = f"{share.location}/{number}"
        with open_run(place, tmp_path, remote=share.remote) as run:
            save_steps(run, 1, 2)
            assert run.verify() == {}
        path = file_of(share.root / f"{number}", 2, file)
        damage(path, chance)
        check_fallback(path, place, tmp_path, f"other-{number}", remote=share.remote)


@DAMAGES
def test_damaged_mark_of_an_attempt_changes_nothing(damage: Damage, chance: random.Random, tmp_path: Path) -> None:
    """Only the mark's presence counts. If it is gone, the manifests decide, and it is not written again."""
    place = tmp_path / "run"
    with open_run(place, tmp_path) as run:
        save_steps(run, 1, 2)
    (mark,) = place.glob("*/COMMITTED.json")
    damage(mark, chance)
    with open_run(place, tmp_path, "other") as run:
        assert run.verify() == {}
        assert restored_step(run) == 2
        save_steps(run, 3)
    with open_run(place, tmp_path, "third") as run:
        assert restored_step(run) == 3


@pytest.mark.parametrize("damage", [flip, cut])
def test_damaged_mark_still_says_that_the_run_is_no_new_one(
    damage: Damage, chance: random.Random, tmp_path: Path
) -> None:
    """A damaged mark counts when all checkpoints of its attempt are gone."""
    place = tmp_path / "run"
    with open_run(place, tmp_path) as run:
        save_steps(run, 1)
    (mark,) = place.glob("*/COMMITTED.json")
    damage(mark, chance)
    shutil.rmtree(file_of(place, 1, "MANIFEST.json").parent)
    with open_run(place, tmp_path, "other") as run, pytest.raises(errors.DamagedError, match="begin anew"):
        run.restore()


@DAMAGES
@FILES
def test_only_damaged_ones_raise(damage: Damage, file: str, chance: random.Random, tmp_path: Path) -> None:
    """If all checkpoints are damaged, restore raises and never starts from scratch in silence."""
    place = tmp_path / "run"
    with open_run(place, tmp_path) as run:
        save_steps(run, 1, 2)
    for step in (1, 2):
        damage(file_of(place, step, file), chance)
    with open_run(place, tmp_path, "other") as run:
        with pytest.raises(errors.DamagedError, match="step-00000000"):
            run.restore()
        save_steps(run, 3)
        assert restored_step(run) == 3


@DAMAGES
def test_intact_copy_on_this_machine_is_enough(damage: Damage, chance: random.Random, tmp_path: Path) -> None:
    """An intact copy in the spool serves for a damaged one on the store, and the reverse."""
    place = tmp_path / "run"
    with open_run(place, tmp_path) as run:
        save_steps(run, 1, 2)
    damage(file_of(place, 2, "state-*.pt"), chance)
    with open_run(place, tmp_path) as run:
        assert restored_step(run) == 2
    (spooled,) = (tmp_path / "spool").glob("*/*/step-000000002-*/state-*.pt")
    damage(spooled, chance)
    with open_run(place, tmp_path) as run:
        assert restored_step(run) == 1


def test_upload_that_was_cut_off_is_a_new_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If nothing was ever committed, the run is new, and the log says so."""
    folder = tmp_path / "run" / "000001-00000000" / "step-000000005-00000000"
    folder.mkdir(parents=True)
    (folder / f"state-{'0' * 32}.pt").write_bytes(b"half of it")
    with open_run(tmp_path / "run", tmp_path) as run:
        assert run.restore() is None
        assert "only uploads that were cut off" in caplog.text
        save_steps(run, 1)
        restored = run.restore()
        assert restored is not None
        assert restored.attempt == 2


class Dying(DirectoryStore):
    """A directory whose writer dies just before it writes a certain file."""

    def __init__(self, place: Path, before: str) -> None:
        place.mkdir()
        super().__init__(place)
        self.before = before

    def write_confirmed(self, key: str, *arguments: Any, **options: Any) -> Level:
        """Write all others."""
        if key.endswith(self.before):
            raise errors.CheckpointError(f"dead before {key}")
        return super().write_confirmed(key, *arguments, **options)


def save_and_die(place: Path, tmp_path: Path, before: str) -> None:
    """Save step 1 as a run's first, up to a certain file; what had arrived by then stays."""
    run = open_run(Dying(place, before), tmp_path)
    with pytest.raises(errors.CheckpointError, match="dead before"):
        run.save(state_of(1), 1).wait(timeout_s=60)
    with pytest.raises(errors.CheckpointError, match="dead before"):
        run.close()


def test_whole_state_whose_manifest_never_came_is_a_new_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A first save without its manifest was never reported as safe: without the spool, the run is new."""
    place = tmp_path / "run"
    save_and_die(place, tmp_path, "MANIFEST.json")
    assert len(list(place.glob("*/step-*/state-*.pt"))) == 1
    with open_run(place, tmp_path, "other") as run:
        assert run.restore() is None
        assert "only uploads that were cut off" in caplog.text


def test_checkpoint_whose_attempt_was_not_marked_is_restored(tmp_path: Path) -> None:
    """Its manifest counts. The same machine then marks the attempt; another one marks an attempt of its own."""
    for spool in ("spool", "other"):
        place = tmp_path / f"run of {spool}"
        save_and_die(place, tmp_path, "COMMITTED.json")
        assert not list(place.glob("*/COMMITTED.json"))
        with open_run(place, tmp_path, spool) as run:
            assert restored_step(run) == 1
            save_steps(run, 2)
        assert len(list(place.glob("*/COMMITTED.json"))) == (2 if spool == "spool" else 1)


def test_marked_attempt_without_checkpoints_is_no_new_run(tmp_path: Path) -> None:
    """If somebody has removed all checkpoints of a marked attempt, restore raises."""
    place = tmp_path / "run"
    with open_run(place, tmp_path) as run:
        save_steps(run, 1)
    shutil.rmtree(file_of(place, 1, "MANIFEST.json").parent)
    with open_run(place, tmp_path, "other") as run, pytest.raises(errors.DamagedError, match="begin anew"):
        run.restore()
