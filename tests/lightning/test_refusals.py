"""What the storage refuses for good reaches a Lightning training, by the callback and by the plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from ai4os_data import errors
from ai4os_data.lightning import StorageCheckpointCallback, StorageCheckpointIO
from tests.support.lit import Model, loader_of, trainer_of
from tests.support.servers import Fault
from tests.support.shares import Folder, Share

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import FaultServer

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning's own, about devices, workers and loggers


@pytest.mark.parametrize("how", ["callback", "plugin"])
def test_a_lasting_refusal_ends_the_training_with_its_reason(
    how: str, fault: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what limits the state, and where the checkpoint is meanwhile."""
    share = Share(fault)
    loader = loader_of(Folder(tmp_path / "data"), tmp_path)
    for name, value in share.environ().items():
        monkeypatch.setenv(name, value)
    run, spool = f"ai4os://rshare/{share.name}/run", tmp_path / "spool"
    if how == "callback":
        trainer = trainer_of(StorageCheckpointCallback(run, every_n_train_steps=4, spool=spool), max_epochs=1)
    else:
        keeper = ModelCheckpoint(run, every_n_train_steps=4)
        trainer = trainer_of(keeper, plugins=[StorageCheckpointIO(spool=spool)], max_epochs=1)
    fault.always("*", Fault(status=413, kept_bytes=0), method="PUT")
    try:
        with pytest.raises(errors.ServerError, match=r"\(413\): it limits the body of a request"):
            trainer.fit(Model(), loader)
    finally:
        fault.heal()
    assert [*(tmp_path / "spool").rglob("state-*.pt")], "the next start sends it"
