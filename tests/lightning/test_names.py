"""A name that ModelCheckpoint gives twice gets a version, wherever the first save is, as on a local disk."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest

pytest.importorskip("lightning", reason="lightning is not installed")

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from ai4os_data import errors
from ai4os_data.fsspec.filesystem import StorageFileSystem
from ai4os_data.lightning import StorageCheckpointIO
from ai4os_data.lightning import io as lightning_io
from ai4os_data.stores.underway import Underway
from tests.support.lit import Model, loader_of, trainer_of
from tests.support.servers.fault import Fault
from tests.support.shares import Folder, Share

if TYPE_CHECKING:
    from tests.support.servers import FaultServer

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning's own, about devices, workers and loggers

STATE = {"state_dict": {"weight": torch.arange(6.0)}, "global_step": 3, "epoch": 1}
FULL = Fault(status=507)


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves are sent in the background, as during a training."""
    monkeypatch.setattr(lightning_io, "_is_fitting", lambda: True)


@pytest.fixture
def server(fault: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Share:
    """A share of a server with faults, by the name of a remote."""
    share = Share(fault)
    for name, value in share.environ().items():
        monkeypatch.setenv(name, value)
    StorageFileSystem.clear_instance_cache()  # one of an earlier test has the server that the name stood for then
    return share


class Measured(Model):
    """A model whose validation gives chosen scores."""

    told = (0.101, 0.102, 0.103, 0.104)

    def validation_step(self, *_: Any) -> None:
        """Measure."""
        self.log("score", self.told[self.current_epoch])


def trained(dirpath: str, plugins: list[Any], loader: Any, **options: Any) -> tuple[list[str], str]:
    """Save in each of four epochs; the names that are kept, and the best of them."""
    saver = ModelCheckpoint(dirpath, **{"monitor": "score", "save_top_k": -1, "filename": "{score:.1f}", **options})
    trainer = trainer_of(saver, max_epochs=4, limit_train_batches=1, limit_val_batches=1, plugins=plugins)
    trainer.fit(Measured(), loader, loader)
    return sorted(Path(path).name for path in saver.best_k_models), Path(saver.best_model_path).name


def names(folder: Path) -> list[str]:
    """Return what is there."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"save_top_k": 2},
        {"filename": "best"},
        {"save_last": True},
        {"enable_version_counter": False},
        {"save_last": True, "enable_version_counter": False, "filename": "last"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["directory", "remote", "memory"])
def test_names_are_those_of_a_local_disk(server: Share, tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    """Every storage has as many files as a local disk, and the same best one."""
    loader = loader_of(Folder(tmp_path / "data"), tmp_path)
    expected = trained(str(tmp_path / "own"), [], loader, **options)
    server.server.change(latency_s=0.01)  # type: ignore[attr-defined]
    place = {
        "directory": str(tmp_path / "run"),
        "remote": f"ai4os://rshare/{server.name}/run",
        "memory": f"memory://{tmp_path.name}",
    }
    assert trained(place[kind], [StorageCheckpointIO(spool=tmp_path / "spool")], loader, **options) == expected
    if kind == "memory":
        files = fsspec.filesystem("memory")
        assert sorted(Path(path).name for path in files.ls(f"/{tmp_path.name}", detail=False)) == names(
            tmp_path / "own"
        )
    else:
        assert names((tmp_path if kind == "directory" else server.root) / "run") == names(tmp_path / "own")


@pytest.mark.usefixtures("behind")
@pytest.mark.parametrize("trouble", [FULL, Fault(status=503), Fault(drop=True)], ids=["full", "busy", "gone"])
def test_name_is_taken_while_nothing_can_be_written(server: Share, tmp_path: Path, trouble: Fault) -> None:
    """The process knows the name, whatever the server answers, and asks it nothing about the name."""
    faulty: Any = server.server
    path = f"ai4os://rshare/{server.name}/run/best.ckpt"
    files = fsspec.filesystem("ai4os")
    io = StorageCheckpointIO(spool=tmp_path / "spool")
    assert not files.exists(path)
    for method in ("MKCOL", "PUT"):
        faulty.always("*", trouble, method)
    begun = time.monotonic()
    io.save_checkpoint(STATE, path)
    assert time.monotonic() - begun < 5
    faulty.always("*", trouble, "*")
    asked = len(faulty.requests())
    assert files.exists(path)
    assert files.isdir(path)
    assert not files.isfile(path)
    assert files.info(path)["type"] == "directory"
    # Before each try the uploader asks what lies where its files go, below the folder of that name.
    others = [one for one in faulty.requests()[asked:] if one.method not in {"MKCOL", "PUT"}]
    assert all(one.path.partition("/best.ckpt/")[2] for one in others), others
    faulty.heal()
    assert files.ls(f"ai4os://rshare/{server.name}/run", detail=False) == [f"rshare/{server.name}/run/best.ckpt"]
    assert files.glob(f"ai4os://rshare/{server.name}/*/*.ckpt") == [f"rshare/{server.name}/run/best.ckpt"]
    io.teardown()
    assert names(server.root / "run") == ["best.ckpt"]


@pytest.mark.usefixtures("behind")
def test_what_is_removed_is_not_there_though_it_stays_until_a_newer_one_has_arrived(
    server: Share, tmp_path: Path
) -> None:
    """Its name is free, as on a local disk; what stays in the end is shown."""
    place = f"ai4os://rshare/{server.name}/run"
    files = fsspec.filesystem("ai4os")
    io = StorageCheckpointIO(spool=tmp_path / "spool")
    io.save_checkpoint(STATE, f"{place}/a.ckpt")
    io.remove_checkpoint(f"{place}/a.ckpt")
    assert not files.exists(f"{place}/a.ckpt")
    with pytest.raises(FileNotFoundError):
        files.ls(f"{place}/a.ckpt")
    io.save_checkpoint(STATE, f"{place}/a.ckpt")
    assert files.exists(f"{place}/a.ckpt")
    io.remove_checkpoint(f"{place}/a.ckpt")
    io.teardown()
    assert names(server.root / "run") == ["a.ckpt"]
    assert files.exists(f"{place}/a.ckpt")


@pytest.mark.usefixtures("behind")
def test_two_plugins_know_of_each_other(server: Share, tmp_path: Path) -> None:
    """Two trainers of one process save to one folder; the saves of a plugin that is gone are not shown."""
    path = f"ai4os://rshare/{server.name}/run/best.ckpt"
    faulty: Any = server.server
    files = fsspec.filesystem("ai4os")
    first, second = (StorageCheckpointIO(spool=tmp_path / f"{number}") for number in range(2))
    faulty.always("*", Fault(stall_s=0.5), "PUT")
    first.save_checkpoint(STATE, path)
    second.save_checkpoint(STATE, path)
    first.teardown()
    assert files.exists(path)
    second.teardown()
    faulty.heal()
    assert files.exists(path)
    mine = Underway()
    mine.coming = frozenset({f"rshare/{server.name}/run/other.ckpt"})
    assert files.exists(f"ai4os://rshare/{server.name}/run/other.ckpt")
    del mine
    assert not files.exists(f"ai4os://rshare/{server.name}/run/other.ckpt")


@pytest.mark.usefixtures("behind")
def test_directory_that_cannot_be_made_makes_the_save_arrive_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else can show Lightning that the name is taken."""
    monkeypatch.setattr(os, "makedirs", failing(os.makedirs, "best.ckpt"))
    io = StorageCheckpointIO(spool=tmp_path / "spool")
    io.save_checkpoint(STATE, tmp_path / "run" / "best.ckpt")
    assert [*(tmp_path / "run" / "best.ckpt").rglob("MANIFEST.json")]


def failing(make: Any, name: str) -> Any:
    """Return what makes directories, but fails the first time for one of them."""
    failed: list[str] = []

    def make_or_fail(path: Any, *args: Any, **options: Any) -> None:
        if os.path.basename(path) == name and not failed:
            failed.append(name)
            raise OSError(28, "No space left on device")
        make(path, *args, **options)

    return make_or_fail


@pytest.mark.usefixtures("behind")
def test_failed_save_leaves_no_empty_directory(tmp_path: Path) -> None:
    """The next start would take such a directory for a checkpoint."""
    io = StorageCheckpointIO(spool=tmp_path / "spool", spool_limit="1MiB")
    large = {**STATE, "state_dict": {"weight": torch.zeros(1_000_000)}}
    io.save_checkpoint(large, tmp_path / "run" / "a.ckpt")
    assert names(tmp_path / "run") == ["a.ckpt"]
    with pytest.raises(errors.OutOfSpaceError):
        io.teardown()
    assert names(tmp_path / "run") == []


def test_async_plugin_that_lets_a_name_come_again_is_warned_of(
    server: Share, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It begins a save only when the one before has arrived, and its name is not known until then."""
    io = AsyncCheckpointIO(StorageCheckpointIO(spool=tmp_path / "spool"))
    for name in ("last", "last", "best", "best", "best"):
        io.save_checkpoint(STATE, f"ai4os://rshare/{server.name}/run/{name}.ckpt")
    io.teardown()
    (told,) = [record.message for record in caplog.records if "AsyncCheckpointIO" in record.message]
    assert told.startswith(f"ai4os://rshare/{server.name}/run/best.ckpt takes the place")


# --- links


def test_last_as_a_link_is_followed_when_read_and_alone_removed(tmp_path: Path) -> None:
    """With `save_last="link"` on a directory, the target of the link stays, also if the training resumed through it."""
    loader = loader_of(Folder(tmp_path / "data"), tmp_path)
    trained(str(tmp_path / "run"), [StorageCheckpointIO(spool=tmp_path / "spool")], loader, save_last="link")
    link = tmp_path / "run" / "last.ckpt"
    assert link.is_symlink()
    io = StorageCheckpointIO(spool=tmp_path / "spool")
    assert io.load_checkpoint(link)["epoch"] == 3
    io.remove_checkpoint(os.path.realpath(link))  # it was resumed from
    io.save_checkpoint(STATE, tmp_path / "run" / "other.ckpt")
    assert link.exists()
    fresh = StorageCheckpointIO(spool=tmp_path / "spool")
    fresh.remove_checkpoint(link)
    fresh.save_checkpoint(STATE, tmp_path / "run" / "newer.ckpt")
    assert not link.is_symlink()
    assert "score=0.1-v3.ckpt" in names(tmp_path / "run")


# --- the tuner


@pytest.mark.parametrize("name", [".lr_find_", ".scale_batch_size_"])
def test_what_the_tuner_saves_for_itself_goes_at_once(tmp_path: Path, name: str) -> None:
    """It is removed although it was loaded: no training resumes from it."""
    path = tmp_path / f"{name}0aa41cf6-6a4f-4d3c-9d0f-2b8f6a2f9f00.ckpt"
    io = StorageCheckpointIO(spool=tmp_path / "spool")
    io.save_checkpoint(STATE, path)
    assert io.load_checkpoint(path)["global_step"] == 3
    io.remove_checkpoint(path)
    assert names(tmp_path) == []


def test_search_for_a_learning_rate_leaves_nothing(folder: Folder, tmp_path: Path) -> None:
    """Neither the trainer's directory nor the spool has a file of it."""
    from lightning.pytorch.tuner.tuning import Tuner

    class Tuned(Model):
        lr = 0.1

    root = tmp_path / "root"
    io = StorageCheckpointIO(spool=tmp_path / "spool")
    trainer = trainer_of(plugins=[io], enable_checkpointing=False, default_root_dir=root, max_epochs=1)
    Tuner(trainer).lr_find(Tuned(), loader_of(folder, tmp_path), num_training=8)
    assert [*tmp_path.rglob("*lr_find*")] == []
    assert not (tmp_path / "spool").exists() or [*(tmp_path / "spool").rglob("*.pt")] == []
