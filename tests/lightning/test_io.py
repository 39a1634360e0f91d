"""Lightning's own ModelCheckpoint saves to a storage through the plugin, which never leaves it without a checkpoint."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("lightning", reason="lightning is not installed")

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from ai4os_data import StorageCheckpoint, errors
from ai4os_data.lightning import StorageCheckpointIO
from ai4os_data.lightning import io as lightning_io
from tests.support.failpoints import run_until
from tests.support.lit import BATCHES, Model, loader_of, start, trainer_of, weights_of
from tests.support.shares import Folder

if TYPE_CHECKING:
    from tests.support.shares import Share

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning's own, about devices, workers and loggers

STATE = {"state_dict": {"weight": torch.arange(6.0)}, "global_step": 3, "epoch": 1}


@pytest.fixture(params=["folder", "share"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A folder on this disk, and one on a server."""
    if request.param == "share":
        found: Share = request.getfixturevalue("share")
        return found
    return Folder(tmp_path / "storage")


def io_of(place: Folder, tmp_path: Path) -> StorageCheckpointIO:
    """The plugin, for a place."""
    return StorageCheckpointIO(place.remote, spool=tmp_path / "spool")


def saved(place: Folder) -> set[str]:
    """The paths that hold a checkpoint with a manifest."""
    return {path.relative_to(place.root).parts[0] for path in place.root.rglob("MANIFEST.json")}


def test_checkpoint_comes_back(place: Folder, tmp_path: Path) -> None:
    """A save is loaded exactly, also before it has arrived on the storage."""
    io = io_of(place, tmp_path)
    path = f"{place.location}/a.ckpt"
    io.save_checkpoint(STATE, path)
    found = io.load_checkpoint(path)
    assert torch.equal(found["state_dict"]["weight"], STATE["state_dict"]["weight"])  # type: ignore[index]
    assert (found["global_step"], found["epoch"]) == (3, 1)
    io.teardown()
    assert io_of(place, tmp_path).load_checkpoint(path, weights_only=True).keys() == STATE.keys()


def test_second_save_takes_the_place_of_the_first(place: Folder, tmp_path: Path) -> None:
    """`last.ckpt` is written again and again, and one checkpoint stays."""
    io = io_of(place, tmp_path)
    path = f"{place.location}/last.ckpt"
    for step in (1, 2, 3):
        io.save_checkpoint({**STATE, "global_step": step}, path)
    io.teardown()
    assert io.load_checkpoint(path)["global_step"] == 3
    assert len([*place.root.rglob("MANIFEST.json")]) == 1


def test_checkpoint_callback_numbers_a_name_whose_save_is_on_its_way(
    share: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are as many files as on a local disk, and the same best one, however slow the storage is."""
    for name, value in share.environ().items():
        monkeypatch.setenv(name, value)
    kept = ["test-v1.ckpt", "test-v2.ckpt", "test-v3.ckpt", "test.ckpt"]
    for dirpath, plugins in (
        (f"ai4os://rshare/{share.name}/run", [io_of(share, tmp_path)]),
        (str(tmp_path / "run"), []),
    ):
        saver = ModelCheckpoint(dirpath, save_top_k=-1, monitor="epoch", mode="max", filename="test")
        trainer = trainer_of(saver, max_epochs=4, limit_train_batches=1, plugins=plugins)
        trainer.fit(Model(), loader_of(share, tmp_path))
        assert sorted(Path(path).name for path in saver.best_k_models) == kept
        assert Path(saver.best_model_path).name == "test-v3.ckpt"
    assert sorted(path.name for path in (share.root / "run").iterdir()) == kept
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == kept


def test_removal_waits_for_what_is_newer(place: Folder, tmp_path: Path) -> None:
    """The folder is removed too, so that its name is free."""
    io = io_of(place, tmp_path)
    io.save_checkpoint(STATE, f"{place.location}/a.ckpt")
    io.save_checkpoint(STATE, f"{place.location}/b.ckpt")
    io.remove_checkpoint(f"{place.location}/a.ckpt")
    io.teardown()
    assert saved(place) == {"b.ckpt"}
    assert [path.name for path in place.root.iterdir()] == ["b.ckpt"]


def test_removal_of_nothing_is_no_error(place: Folder, tmp_path: Path) -> None:
    """Lightning's own plugin raises nothing either."""
    io = io_of(place, tmp_path)
    io.remove_checkpoint(f"{place.location}/a.ckpt")
    io.teardown()
    assert [*place.root.rglob("*")] == []


def test_missing_one_is_not_found(place: Folder, tmp_path: Path) -> None:
    """The error is a `FileNotFoundError` that begins as Lightning's does, also for what a cut off save left."""
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=r"Checkpoint file not found: .*a\.ckpt"):
            io_of(place, tmp_path).load_checkpoint(f"{place.location}/a.ckpt")
        (place.root / "a.ckpt").mkdir(exist_ok=True)


def test_damaged_one_raises(tmp_path: Path) -> None:
    """A damaged checkpoint is never taken for a new run."""
    place = Folder(tmp_path / "storage")
    io = io_of(place, tmp_path)
    io.save_checkpoint(STATE, f"{place.location}/a.ckpt")
    io.teardown()
    for path in place.root.rglob("state-*"):
        path.write_bytes(b"damaged")
    with pytest.raises(errors.DamagedError):
        StorageCheckpointIO(spool=tmp_path / "empty").load_checkpoint(f"{place.location}/a.ckpt")


def test_local_file_is_read_as_lightning_does(tmp_path: Path) -> None:
    """A file that `resume_path` gave is one such file."""
    torch.save(STATE, tmp_path / "a.ckpt")
    assert StorageCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=True)["global_step"] == 3


def test_storage_options_are_refused(tmp_path: Path) -> None:
    """Lightning's own plugin refuses them too."""
    with pytest.raises(TypeError, match="storage_options"):
        StorageCheckpointIO().save_checkpoint(STATE, tmp_path / "a.ckpt", storage_options={})


def test_state_that_is_not_plain_is_named(tmp_path: Path) -> None:
    """The error names the entry, so that it can be taken out."""
    with pytest.raises(errors.StateError, match="mine"):
        StorageCheckpointIO(spool=tmp_path / "s").save_checkpoint({"mine": {"f": print}}, tmp_path / "a")


def test_model_checkpoint_keeps_top_k_and_last(tmp_path: Path) -> None:
    """The two best epochs and the last one stay, and a training can resume from each of them."""
    place = Folder(tmp_path / "storage")

    class Measured(Model):
        def validation_step(self, *_: Any) -> None:
            self.log("score", [0.3, 0.9, 0.5, 0.8][self.current_epoch])

    checkpoint = ModelCheckpoint(
        dirpath=place.location, filename="{epoch}", monitor="score", mode="max", save_top_k=2, save_last=True
    )
    loader = loader_of(Folder(tmp_path / "data"), tmp_path)
    model = Measured()
    trainer = trainer_of(checkpoint, max_epochs=4, limit_val_batches=1, plugins=[io_of(place, tmp_path)])
    trainer.fit(model, loader, loader)
    assert saved(place) == {"epoch=1.ckpt", "epoch=3.ckpt", "last.ckpt"}
    again = Measured()
    more = trainer_of(max_epochs=4, limit_val_batches=1, plugins=[io_of(place, tmp_path)], enable_checkpointing=False)
    more.fit(again, loader, loader, ckpt_path=checkpoint.last_model_path)
    assert more.global_step == 4 * BATCHES
    assert weights_of(again) == weights_of(model)


def test_what_was_resumed_from_stays(tmp_path: Path) -> None:
    """It stays even if Lightning asks to remove it."""
    place = Folder(tmp_path / "storage")
    io = io_of(place, tmp_path)
    io.save_checkpoint(STATE, f"{place.location}/a.ckpt")
    io.load_checkpoint(f"{place.location}/a.ckpt")
    io.save_checkpoint(STATE, f"{place.location}/b.ckpt")
    io.remove_checkpoint(f"{place.location}/a.ckpt")
    io.teardown()
    assert saved(place) == {"a.ckpt", "b.ckpt"}


def test_what_was_resumed_from_stays_by_whatever_name_it_is_removed(tmp_path: Path) -> None:
    """A checkpoint is known by its own name: a path may have others, as by way of a link."""
    place = Folder(tmp_path / "storage")
    (tmp_path / "other").symlink_to(place.root)
    io_of(place, tmp_path).save_checkpoint(STATE, f"{place.location}/a.ckpt")
    io = io_of(place, tmp_path)
    io.load_checkpoint(f"{tmp_path}/other/a.ckpt")
    io.remove_checkpoint(f"{place.location}/a.ckpt")
    io.save_checkpoint(STATE, f"{place.location}/b.ckpt")
    assert saved(place) == {"a.ckpt", "b.ckpt"}


def test_what_was_resumed_from_stays_beside_a_damaged_one_of_its_attempt(tmp_path: Path) -> None:
    """A process that is killed after a save was confirmed, and before the one before is removed, leaves both."""
    place = Folder(tmp_path / "storage")
    path = f"{place.location}/last.ckpt"
    with StorageCheckpoint(path, spool=tmp_path / "other", keep_last=2) as run:
        for step in (1, 2):
            run.save({**STATE, "global_step": step}, step).wait()
        newest, resumed = (found.name for found in run.list())
    for file in (place.root / "last.ckpt" / str(newest)).glob("state-*"):
        file.write_bytes(b"damaged")
    io = io_of(place, tmp_path)
    assert io.load_checkpoint(path)["global_step"] == 1
    io.save_checkpoint({**STATE, "global_step": 3}, path)
    io.teardown()
    with StorageCheckpoint(path, spool=tmp_path / "looking") as run:
        saved_next, *others = run.list()
        assert saved_next.parent == resumed
        assert resumed in [found.name for found in others]
        assert run.restore(step=1) is not None


def begun(root: Path) -> Folder:
    """A folder with a confirmed checkpoint."""
    place = Folder(root / "storage")
    io = StorageCheckpointIO(spool=root / "spool-of-before")
    io.save_checkpoint({**STATE, "global_step": 1}, f"{place.location}/1.ckpt")
    io.teardown()
    return place


def turn_over(place: Folder, spool: Path) -> None:
    """Save in the background and remove older checkpoints, as `save_top_k=1` does, in a process of its own."""
    lightning_io._is_fitting = lambda: True
    io = StorageCheckpointIO(spool=spool)
    for step in (2, 3):
        io.save_checkpoint({**STATE, "global_step": step}, f"{place.location}/{step}.ckpt")
        io.remove_checkpoint(f"{place.location}/{step - 1}.ckpt")
    io.teardown()


def test_killed_anywhere_it_leaves_an_intact_checkpoint(tmp_path: Path) -> None:
    """The process is killed at every second step, in removals too, and the spool is lost."""
    place = begun(tmp_path / "whole")
    steps = run_until(0, lambda _: turn_over(place, tmp_path / "whole" / "spool")).steps
    assert steps is not None
    whole = steps.total()
    assert saved(place) == {"3.ckpt"}
    for fatal in range(1, whole, 2):
        root = tmp_path / f"{fatal}"
        place = begun(root)
        run_until(fatal, lambda _, place=place, root=root: turn_over(place, root / "spool"))  # type: ignore[misc]
        intact = [path for path in sorted(saved(place)) if is_intact(place, path, root / "other")]
        assert intact, f"killed at {fatal} of {whole}"


def is_intact(place: Folder, name: str, spool: Path) -> bool:
    """Whether a checkpoint can be restored."""
    with StorageCheckpoint(f"{place.location}/{name}", spool=spool) as run:
        return run.restore() is not None


def test_server_that_is_down_keeps_the_old(share: Share, tmp_path: Path) -> None:
    """What could not be sent replaces nothing; the error is raised, and the old checkpoint is there."""
    io = StorageCheckpointIO(share.remote, spool=tmp_path / "spool")
    io.save_checkpoint(STATE, f"{share.location}/a.ckpt")
    io.teardown()
    with pytest.raises(errors.StorageError):
        wrong_password(io, share)
    io.remove_checkpoint(f"{share.location}/a.ckpt")
    time.sleep(0.1)
    assert saved(share) == {"a.ckpt"}


def wrong_password(io: StorageCheckpointIO, share: Share) -> None:
    """Save with credentials that have been withdrawn."""
    import dataclasses

    assert share.remote is not None
    io._outgoing._remote = dataclasses.replace(share.remote, password="withdrawn")
    io.save_checkpoint(STATE, f"{share.location}/b.ckpt")
    io.teardown()


# --- the local disk


LARGE = {"state_dict": {"weight": torch.zeros(100_000)}, "global_step": 3, "epoch": 1}


def spooled(tmp_path: Path) -> list[Path]:
    """The files in the spool."""
    return [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]


def test_nothing_stays_on_the_local_disk(place: Folder, tmp_path: Path) -> None:
    """A spool for two checkpoints is enough for a training with twenty."""
    io = StorageCheckpointIO(place.remote, spool=tmp_path / "spool", spool_limit="1MiB")
    for step in range(6):
        io.save_checkpoint(LARGE, f"{place.location}/{step}.ckpt")
        assert spooled(tmp_path) == []
    assert len(saved(place)) == 6


def test_training_leaves_nothing_on_the_local_disk(tmp_path: Path) -> None:
    """The spool is empty, also of saves in the background and of removed ones."""
    place = Folder(tmp_path / "storage")
    keeper = ModelCheckpoint(place.location, "{step}", every_n_train_steps=2)
    trainer_of(keeper, plugins=[io_of(place, tmp_path)]).fit(Model(), loader_of(Folder(tmp_path / "data"), tmp_path))
    assert saved(place) == {"step=24.ckpt"}
    assert spooled(tmp_path) == []


def test_spool_that_is_too_small_does_not_end_the_training(tmp_path: Path) -> None:
    """If nothing can be saved, the end of the training raises it, and the removal of an earlier save does not."""
    place = Folder(tmp_path / "storage")
    io = StorageCheckpointIO(spool=tmp_path / "spool", spool_limit="1MiB")
    keeper = ModelCheckpoint(place.location, "{step}", every_n_train_steps=2)
    model = Model()
    model.register_buffer("large", torch.zeros(500_000))
    with pytest.raises(errors.OutOfSpaceError):
        trainer_of(keeper, plugins=[io]).fit(model, loader_of(Folder(tmp_path / "data"), tmp_path))
    assert len(model.batches) == 2 * BATCHES
    io.teardown()  # it is told once


def test_arrival_of_the_next_takes_the_place_of_what_an_earlier_process_saved(place: Folder, tmp_path: Path) -> None:
    """`last.ckpt` is one checkpoint, also after the third start."""
    for step in (1, 2, 3):
        io_of(place, tmp_path).save_checkpoint({**STATE, "global_step": step}, f"{place.location}/last.ckpt")
    assert len([*place.root.rglob("MANIFEST.json")]) == 1
    assert io_of(place, tmp_path).load_checkpoint(f"{place.location}/last.ckpt")["global_step"] == 3


# --- when a save returns


class SaveOnce(lightning.Callback):
    """Saves by hand in the middle of a training, and notes whether the save is in the background."""

    def __init__(self, path: str, io: StorageCheckpointIO) -> None:
        self._path = path
        self._io = io
        self.was_behind = False

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Save."""
        if trainer.global_step == 5:
            trainer.save_checkpoint(self._path)
            self.was_behind = self._path in self._io._outgoing._sending


def test_save_after_a_training_returns_when_it_has_arrived(place: Folder, tmp_path: Path) -> None:
    """A save within a training is sent in the background, also after a validation; one after it waits."""
    io = io_of(place, tmp_path)
    loader = loader_of(Folder(tmp_path / "data"), tmp_path)
    once = SaveOnce(f"{place.location}/five.ckpt", io)
    trainer = trainer_of(once, plugins=[io], max_epochs=1, enable_checkpointing=False)
    model = Model()
    trainer.validate(model, loader, verbose=False)
    trainer.fit(model, loader)
    assert once.was_behind
    trainer.save_checkpoint(f"{place.location}/end.ckpt")
    assert io._outgoing._sending == {}
    assert saved(place) == {"five.ckpt", "end.ckpt"}


def test_save_after_a_training_that_fails_raises(share: Share, tmp_path: Path) -> None:
    """The save itself raises the error."""
    io = io_of(share, tmp_path)
    with pytest.raises(errors.StorageError):
        wrong_password(io, share)


def test_wrapped_by_an_async_one_all_is_there_in_the_end(place: Folder, tmp_path: Path) -> None:
    """An AsyncCheckpointIO does not tear down the plugin that it wraps; every save arrives all the same."""
    keeper = ModelCheckpoint(f"{place.location}", "{epoch}") if place.remote is None else None
    io = AsyncCheckpointIO(io_of(place, tmp_path))
    trainer = trainer_of(*([keeper] if keeper else []), plugins=[io], enable_checkpointing=keeper is not None)
    trainer.fit(Model(), loader_of(Folder(tmp_path / "data"), tmp_path))
    if keeper is None:
        trainer.save_checkpoint(f"{place.location}/epoch=1.ckpt")
        io.teardown()
    assert saved(place) == {"epoch=1.ckpt"}
    assert spooled(tmp_path) == []


def test_removal_that_comes_before_the_next_save_waits_for_it(place: Folder, tmp_path: Path) -> None:
    """An asynchronous plugin removes first; there is a checkpoint to resume from at any time."""
    io = io_of(place, tmp_path)
    io.save_checkpoint(STATE, f"{place.location}/a.ckpt")
    io.remove_checkpoint(f"{place.location}/a.ckpt")
    assert saved(place) == {"a.ckpt"}
    io.save_checkpoint(STATE, f"{place.location}/b.ckpt")
    assert saved(place) == {"b.ckpt"}


UNTOLD = """
import sys
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import CheckpointIO
from ai4os_data.lightning import StorageCheckpointIO
import ai4os_data.lightning.io as room
import torch
room._is_fitting = lambda: True  # the end of the process comes in mid-training
io = StorageCheckpointIO(spool=f"{sys.argv[1]}/spool")
io.save_checkpoint({"weight": torch.zeros(1_000_000), "global_step": 1}, f"{sys.argv[1]}/storage/a.ckpt")
"""


def test_end_of_the_process_waits_for_what_is_on_its_way(tmp_path: Path) -> None:
    """A process that ends without a teardown of the plugin sends what is on its way."""
    subprocess.run([sys.executable, "-c", UNTOLD, str(tmp_path)], check=True, timeout=60)
    assert saved(Folder(tmp_path / "storage")) == {"a.ckpt"}
    assert spooled(tmp_path) == []


# --- paths


@pytest.fixture
def remote(share: Share, monkeypatch: pytest.MonkeyPatch) -> str:
    """The share, by the name of a remote."""
    for name, value in share.environ().items():
        monkeypatch.setenv(name, value)
    return f"rshare/{share.name}"


def test_path_object_is_the_location_that_was_meant(share: Share, remote: str, tmp_path: Path) -> None:
    """A Path makes one slash of two, and the plugin two of one."""
    io = StorageCheckpointIO(spool=tmp_path / "spool")
    io.save_checkpoint(STATE, Path(f"ai4os://{remote}/a.ckpt"))
    assert saved(share) == {"a.ckpt"}
    assert io.load_checkpoint(f"ai4os://{remote}/a.ckpt")["global_step"] == 3


@pytest.mark.usefixtures("remote")
@pytest.mark.parametrize("path", ["rshare:runs/x", "rshare:/runs/x", "ai4os:/rshare/runs/x"])
@pytest.mark.parametrize("known", ["by the environment", "by its name", "as the platform's"])
def test_location_that_became_a_local_path_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, known: str
) -> None:
    """The error says what to write, also if no storage is linked; a path with another colon is accepted."""
    if known != "by the environment":
        monkeypatch.delenv("RCLONE_CONFIG_RSHARE_URL")
    io = StorageCheckpointIO("rshare" if known == "by its name" else None, spool=tmp_path / "spool")
    with pytest.raises(errors.LocationError, match="dirpath='ai4os://rshare/runs/x'"):
        io.save_checkpoint(STATE, f"{tmp_path}/{path}/epoch=1.ckpt")
    if known != "by its name":
        io.save_checkpoint(STATE, f"{tmp_path}/12:30/epoch=1.ckpt")


def test_model_checkpoint_saves_to_a_remote(share: Share, remote: str, tmp_path: Path) -> None:
    """A training written as in the docs saves to its end, and resumes from there."""

    class Measured(Model):
        def validation_step(self, *_: Any) -> None:
            self.log("score", [0.3, 0.9, 0.5, 0.8][self.current_epoch])

        def test_step(self, *_: Any) -> None:
            self.log("epoch", float(self.current_epoch))

    def trained(epochs: int, path: str | None = None) -> tuple[Any, ModelCheckpoint]:
        keeper = ModelCheckpoint(f"ai4os://{remote}/x", "{epoch}", "score", mode="max", save_last=True)
        io = StorageCheckpointIO(spool=tmp_path / "spool")
        trainer = trainer_of(keeper, max_epochs=epochs, limit_val_batches=1, plugins=[io])
        loader = loader_of(Folder(tmp_path / "data"), tmp_path)
        trainer.fit(Measured(), loader, loader, ckpt_path=path)
        return trainer, keeper

    trainer, keeper = trained(3)
    assert {path.parents[2].name for path in share.root.rglob("MANIFEST.json")} == {"epoch=1.ckpt", "last.ckpt"}
    assert keeper.best_model_path == f"ai4os://{remote}/x/epoch=1.ckpt"
    loader = loader_of(Folder(tmp_path / "data"), tmp_path)
    assert trainer.test(Measured(), loader, ckpt_path="best", verbose=False) == [{"epoch": 3.0}]
    again, _ = trained(4, keeper.last_model_path)
    assert again.global_step == 4 * BATCHES


# --- several processes


def test_state_that_is_spread_over_ranks_is_refused(tmp_path: Path) -> None:
    """One rank would save only its part; the error says what to use."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        weight = distribute_tensor(torch.arange(4.0), init_device_mesh("cpu", (1,)), [Shard(0)])
        state = {"optimizer_states": [{"state": {0: {"exp_avg": weight}}}]}
        with pytest.raises(errors.StateError, match=r"optimizer_states\.0\.state\.0\.exp_avg is a DTensor.*full"):
            io_of(Folder(tmp_path / "storage"), tmp_path).save_checkpoint(state, f"{tmp_path}/storage/a.ckpt")
    finally:
        dist.destroy_process_group()


def test_two_ranks_save_once_and_go_on(tmp_path: Path) -> None:
    """Rank 0 writes, and no warning about the number of ranks is logged."""
    place = Folder(tmp_path / "storage")
    ended = start(place, tmp_path, "run", ranks=2, plugin=True, strategy="ddp", devices=2)
    assert ended.returncode == 0, ended.stderr
    assert "comes from" not in ended.stderr
    manifests = [path.relative_to(place.root / "run") for path in place.root.rglob("MANIFEST.json")]
    assert sorted(path.parts[0] for path in manifests) == ["epoch=1.ckpt", "last.ckpt"]
    assert spooled(tmp_path) == []
    state = io_of(place, tmp_path).load_checkpoint(f"{place.location}/run/last.ckpt")
    assert state["global_step"] == BATCHES  # half of the batches each, twice


@pytest.mark.parametrize("name", ["dirpath", "keep_last", "monitor", "alone"])
def test_option_that_is_none_is_refused_at_once(name: str) -> None:
    """The error names the class, and what takes the place of the option."""
    with pytest.raises(TypeError, match=f"StorageCheckpointIO has no {name}: "):
        StorageCheckpointIO(None, **{name: 1})  # type: ignore[arg-type]  # it is none of those that are known
