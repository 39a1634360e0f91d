"""The plugin by which Lightning's own ``ModelCheckpoint`` saves to a storage, which is never without a checkpoint."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING, Any, Literal

import torch.distributed as dist

from ai4os_data import errors
from ai4os_data.checkpoint import RANK_TIMEOUT_S
from ai4os_data.lightning.flavour import plugins, pytorch
from ai4os_data.lightning.hparams import with_opened, with_pickled
from ai4os_data.lightning.options import check_options
from ai4os_data.lightning.outgoing import Outgoing
from ai4os_data.lightning.paths import is_scratch, meant_by, refuse_local, target_of
from ai4os_data.lightning.refusals import refuse_shards
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from ai4os_data.cache import DiskCache
    from ai4os_data.locations import Remote
    from ai4os_data.stores import Durability

__all__ = ["StorageCheckpointIO"]

# In processes that Lightning spawns, only the second one runs.
_FITS = {pytorch.Trainer.fit.__code__, pytorch.Trainer._fit_impl.__code__}  # noqa: SLF001  there is no public name for it


class StorageCheckpointIO(plugins.CheckpointIO):
    """Lets Lightning's own ``ModelCheckpoint(dirpath="ai4os://rshare/runs/x")`` save to a storage.

    Each path is a folder that `StorageCheckpoint` writes to. Within ``Trainer.fit`` a save is sent while the training
    runs; anywhere else, and in the thread of an ``AsyncCheckpointIO``, it returns when it has arrived. A checkpoint is
    removed only once a newer one is confirmed, and the loaded one stays, so that there is always one to resume from. A
    checkpoint does not stay on the local disk once it is on the storage.

    Args:
        remote: a remote's name, or a `Remote`.
        spool: as in `StorageCheckpoint`.
        spool_limit: as in `StorageCheckpoint`.
        durability: as in `StorageCheckpoint`.
        cache: as in `StorageCheckpoint`.
        rank_timeout_s: as in `StorageCheckpoint`.
        **unknown: refused, such as options of ``ModelCheckpoint``: the error says what to use instead.
    """

    def __init__(
        self,
        remote: str | Remote | None = None,
        *,
        spool: str | os.PathLike[str] | None = None,
        spool_limit: int | str | None = None,
        durability: Durability = "best",
        cache: DiskCache | Literal["auto"] | None = "auto",
        rank_timeout_s: float = RANK_TIMEOUT_S,
        **unknown: Any,
    ) -> None:
        check_options(self, unknown, spool_limit)
        options: dict[str, Any] = {"spool": spool, "spool_limit": spool_limit, "durability": durability, "cache": cache}
        self._remote = remote
        self._outgoing = Outgoing(remote, {**options, "rank_timeout_s": rank_timeout_s})

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Save at a path. A checkpoint that is there already stays until the new one is confirmed.

        Raises:
            StateError: it holds something else than tensors, primitives and containers of such.
            StorageError: the error of an earlier save, if it will not pass by itself.
        """
        if storage_options is not None:
            raise TypeError(f"{type(self).__name__} has no storage_options: give it what it needs when it is made")
        location = meant_by(path)
        if is_scratch(location):
            plugins.TorchCheckpointIO().save_checkpoint(checkpoint, location)
            return
        refuse_local(location, self._remote)
        refuse_shards(checkpoint)
        self._outgoing.save(with_pickled(checkpoint), location, waits=not _is_fitting())

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any | None = None,
        weights_only: bool | None = None,  # noqa: FBT001  Lightning passes it by position
    ) -> dict[str, Any]:
        """The checkpoint at a path, or in a local file, which is read as Lightning does.

        Raises:
            NotFoundError: there is nothing.
            DamagedError: it is not intact.
        """
        location = meant_by(path)
        if os.path.isfile(location) or is_scratch(location):
            return plugins.TorchCheckpointIO().load_checkpoint(location, map_location, weights_only)
        target = target_of(location)
        self._outgoing.wait_for(target)
        is_safe, device = weights_only is not False, "cpu" if map_location is None else map_location
        # Before there is a process group, each rank reads for itself.
        with self._outgoing.opened(location, alone=not (dist.is_available() and dist.is_initialized())) as run:
            restored = run.restore(map_location=device, weights_only=is_safe)
        if restored is None:
            raise errors.NotFoundError(
                f"Checkpoint file not found: {location} is no file, and no folder with a checkpoint in it (a save that "
                "was cut off may leave such a folder)"
            )
        for loaded in (location, target):
            self._outgoing.loaded[loaded] = restored.name
        return with_opened(dict(restored), location, weights_only=is_safe, map_location=map_location)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove the checkpoint at a path, as soon as a later save is confirmed."""
        location = meant_by(path)
        if is_scratch(location) or os.path.isfile(location):
            plugins.TorchCheckpointIO().remove_checkpoint(location)
        elif location in self._outgoing.loaded:
            log.info("%s stays: the training resumes from it", location)
        else:
            self._outgoing.remove(location)

    def teardown(self) -> None:
        """Wait for the uploads, and make the removals that had to wait.

        Raises:
            StorageError: what failed, if no later save has replaced it.
        """
        self._outgoing.close()


def _is_fitting() -> bool:
    """Whether this thread trains. Lightning notifies a plugin only of the end of a training."""
    return any(frame.f_code in _FITS for frame, _ in traceback.walk_stack(None))
