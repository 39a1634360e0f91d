"""Lightning's own ModelCheckpoint saves to a storage through the plugin, and never passes through zero checkpoints."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("lightning", reason="lightning is not installed")

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from ai4os_data import StorageCheckpoint, errors
from ai4os_data.lightning import StorageCheckpointIO
from checkpoint.failpoints import run_until
from lit import BATCHES, Model, loader_of, trainer_of, weights_of
from shares import Folder

if TYPE_CHECKING:
    from pathlib import Path

    from shares import Share

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
    """Return the plugin."""
    return StorageCheckpointIO(place.remote, spool=tmp_path / "spool")


def saved(place: Folder) -> set[str]:
    """Return the paths that hold a checkpoint with a manifest."""
    return {path.relative_to(place.root).parts[0] for path in place.root.rglob("MANIFEST.json")}


def test_checkpoint_comes_back(place: Folder, tmp_path: Path) -> None:
    """Exactly, from where it was saved, also before it has arrived there."""
    io = io_of(place, tmp_path)
    path = f"{place.location}/a.ckpt"
    io.save_checkpoint(STATE, path)
    found = io.load_checkpoint(path)
    assert torch.equal(found["state_dict"]["weight"], STATE["state_dict"]["weight"])  # type: ignore[index]
    assert (found["global_step"], found["epoch"]) == (3, 1)
    io.teardown()
    assert io_of(place, tmp_path).load_checkpoint(path, weights_only=True).keys() == STATE.keys()


def test_second_save_takes_the_place_of_the_first(place: Folder, tmp_path: Path) -> None:
    """As `last.ckpt` is written again and again; one stays."""
    io = io_of(place, tmp_path)
    path = f"{place.location}/last.ckpt"
    for step in (1, 2, 3):
        io.save_checkpoint({**STATE, "global_step": step}, path)
    io.teardown()
    assert io.load_checkpoint(path)["global_step"] == 3
    assert len([*place.root.rglob("MANIFEST.json")]) == 1


def test_removal_waits_for_what_is_newer(place: Folder, tmp_path: Path) -> None:
    """And takes the folder too, so that its name is free."""
    io = io_of(place, tmp_path)
    io.save_checkpoint(STATE, f"{place.location}/a.ckpt")
    io.save_checkpoint(STATE, f"{place.location}/b.ckpt")
    io.remove_checkpoint(f"{place.location}/a.ckpt")
    io.teardown()
    assert saved(place) == {"b.ckpt"}
    assert [path.name for path in place.root.iterdir()] == ["b.ckpt"]


def test_removal_of_nothing_is_no_error(place: Folder, tmp_path: Path) -> None:
    """As with Lightning's own."""
    io = io_of(place, tmp_path)
    io.remove_checkpoint(f"{place.location}/a.ckpt")
    io.teardown()


def test_missing_one_is_not_found(place: Folder, tmp_path: Path) -> None:
    """With an error that is a `FileNotFoundError` too."""
    with pytest.raises(FileNotFoundError):
        io_of(place, tmp_path).load_checkpoint(f"{place.location}/a.ckpt")


def test_damaged_one_raises(tmp_path: Path) -> None:
    """It is never taken for a new run."""
    place = Folder(tmp_path / "storage")
    io = io_of(place, tmp_path)
    io.save_checkpoint(STATE, f"{place.location}/a.ckpt")
    io.teardown()
    for path in place.root.rglob("state-*"):
        path.write_bytes(b"damaged")
    with pytest.raises(errors.DamagedError):
        StorageCheckpointIO(spool=tmp_path / "empty").load_checkpoint(f"{place.location}/a.ckpt")


def test_local_file_is_read_as_lightning_does(tmp_path: Path) -> None:
    """Such as what `resume_path` gives."""
    torch.save(STATE, tmp_path / "a.ckpt")
    assert StorageCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=True)["global_step"] == 3


def test_storage_options_are_refused(tmp_path: Path) -> None:
    """As by Lightning's own."""
    with pytest.raises(TypeError, match="storage_options"):
        StorageCheckpointIO().save_checkpoint(STATE, tmp_path / "a.ckpt", storage_options={})


def test_state_that_is_not_plain_is_named(tmp_path: Path) -> None:
    """Where it stands, so that it can be taken out."""
    with pytest.raises(errors.StateError, match="hyper_parameters"):
        StorageCheckpointIO(spool=tmp_path / "s").save_checkpoint({"hyper_parameters": {"f": print}}, tmp_path / "a")


def test_model_checkpoint_keeps_top_k_and_last(tmp_path: Path) -> None:
    """The two best epochs and the last one stay, and any of them can be gone on from."""
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
    """Even where Lightning asks to remove it."""
    place = Folder(tmp_path / "storage")
    io = io_of(place, tmp_path)
    io.save_checkpoint(STATE, f"{place.location}/a.ckpt")
    io.load_checkpoint(f"{place.location}/a.ckpt")
    io.save_checkpoint(STATE, f"{place.location}/b.ckpt")
    io.remove_checkpoint(f"{place.location}/a.ckpt")
    io.teardown()
    assert saved(place) == {"a.ckpt", "b.ckpt"}


def begun(root: Path) -> Folder:
    """Return a folder with a confirmed checkpoint."""
    place = Folder(root / "storage")
    io = StorageCheckpointIO(spool=root / "spool-of-before")
    io.save_checkpoint({**STATE, "global_step": 1}, f"{place.location}/1.ckpt")
    io.teardown()
    return place


def turn_over(place: Folder, spool: Path) -> None:
    """Save, and remove what is older, as `save_top_k=1` does."""
    io = StorageCheckpointIO(spool=spool)
    for step in (2, 3):
        io.save_checkpoint({**STATE, "global_step": step}, f"{place.location}/{step}.ckpt")
        io.remove_checkpoint(f"{place.location}/{step - 1}.ckpt")
    io.teardown()


def test_killed_anywhere_it_leaves_an_intact_checkpoint(tmp_path: Path) -> None:
    """At every second step towards the disk, those of each removal among them; the spool is lost with the machine."""
    place = begun(tmp_path / "whole")
    whole = run_until(0, lambda: turn_over(place, tmp_path / "whole" / "spool"))
    assert whole is not None
    assert saved(place) == {"3.ckpt"}
    for fatal in range(1, whole, 2):
        root = tmp_path / f"{fatal}"
        place = begun(root)
        run_until(fatal, lambda place=place, root=root: turn_over(place, root / "spool"))  # type: ignore[misc]
        intact = [path for path in sorted(saved(place)) if is_intact(place, path, root / "other")]
        assert intact, f"killed at {fatal} of {whole}"


def is_intact(place: Folder, name: str, spool: Path) -> bool:
    """Tell whether a checkpoint can be restored."""
    with StorageCheckpoint(f"{place.location}/{name}", spool=spool) as run:
        return run.restore() is not None


def test_server_that_is_down_keeps_the_old(share: Share, tmp_path: Path) -> None:
    """What could not be sent takes no place; the error comes, and the old one is there."""
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
    io._remote = dataclasses.replace(share.remote, password="withdrawn")
    io.save_checkpoint(STATE, f"{share.location}/b.ckpt")
    io.teardown()
