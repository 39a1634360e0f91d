"""Lightning's own ``ModelCheckpoint`` saves to a storage, and never passes through zero checkpoints there."""

from __future__ import annotations

import os
import posixpath
import re
import threading
import traceback
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import fsspec.core
import torch
import torch.distributed as dist

from ai4os_data import errors
from ai4os_data.checkpoint import MANIFEST, RANK_TIMEOUT_S, StorageCheckpoint, finish_runs
from ai4os_data.http import PASSING, Patience, passes
from ai4os_data.lightning.flavour import CheckpointIO, TorchCheckpointIO, Trainer
from ai4os_data.lightning.hparams import with_opened, with_pickled
from ai4os_data.lightning.options import checked_options
from ai4os_data.locations import LINKED, Remote
from ai4os_data.locations import parsing as locations
from ai4os_data.stores import Underway, expunge, is_on_the_server, open_store, reaches
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ai4os_data.cache import DiskCache
    from ai4os_data.checkpoint import CheckpointName, SaveHandle
    from ai4os_data.stores import Durability

__all__ = ["StorageCheckpointIO"]

_MOST_IN_FLIGHT = 2
_USUALLY_ARRIVED_S = 20.0  # when so much time has passed, closing decides how long to wait
# A Path makes one slash of two.
_COLLAPSED = re.compile(r"^(?P<scheme>ai4os|webdavs?|davs?|https?):/(?!/)")
_OURS = "ai4os://"
_SCRATCH = re.compile(r"\.(lr_find|scale_batch_size)_[0-9a-f-]{36}\.ckpt")
_PARTS_OF_RANKS = ("DTensor", "ShardedTensor")  # by name: each is imported from elsewhere in each torch
# The second one alone runs where Lightning spawns processes.
_FITS = {Trainer.fit.__code__, Trainer._fit_impl.__code__}  # noqa: SLF001  there is no public name for it


class StorageCheckpointIO(CheckpointIO):
    """Lets Lightning's own ``ModelCheckpoint(dirpath="ai4os://rshare/runs/x")`` save to a storage.

    Each path is a folder that `StorageCheckpoint` writes to. Within ``Trainer.fit`` saving goes on behind the training;
    anywhere else, and in the thread of an ``AsyncCheckpointIO``, a save returns when it has arrived. What is removed
    goes only when something newer is confirmed, and what was loaded stays, so that there is always one to go on from.
    Nothing stays on the local disk once it is on the storage.

    Args:
        remote: a remote's name, or a `Remote`.
        spool: as in `StorageCheckpoint`.
        spool_limit: as in `StorageCheckpoint`.
        durability: as in `StorageCheckpoint`.
        cache: as in `StorageCheckpoint`.
        rank_timeout_s: as in `StorageCheckpoint`.
        **unknown: those of ``ModelCheckpoint``, say: the error tells what there is in their place.
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
        options = checked_options(
            *(self, unknown),
            spool=spool,
            spool_limit=spool_limit,
            durability=durability,
            cache=cache,
            rank_timeout_s=rank_timeout_s,
        )
        self._remote = remote
        self._options = {**options, "keep_last": 1, "save_random_states": False}
        self._has_warned = False
        self._doomed: dict[str, int] = {}  # paths that go, each once so many saves are through
        self._saves = 0
        self._numbers: dict[str, int] = {}  # which save each path holds
        self._safe = 0  # the newest save that is where it is to be
        self._loaded: dict[str, CheckpointName] = {}
        self._become_of_this_process()

    def _become_of_this_process(self) -> None:
        """Have nothing on its way."""
        self._sending: dict[str, _Sending] = {}
        self._failed: dict[str, errors.StorageError] = {}
        self._unseen: list[errors.StorageError] = []  # of names that could not be taken, so that they may come again
        self._underway = Underway()
        self._guard = threading.RLock()  # an AsyncCheckpointIO saves in one thread and removes in another
        _finish_at_exit(self)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Save under a path, which may hold one already: that stays until the new one is confirmed.

        Raises:
            StateError: it holds something else than tensors, primitives and containers of such.
            StorageError: what an earlier save failed with, if that will not pass by itself.
        """
        if storage_options is not None:
            raise TypeError(f"{type(self).__name__} has no storage_options: give it what it needs when it is made")
        location = _location(path)
        if _is_scratch(location):
            TorchCheckpointIO().save_checkpoint(checkpoint, location)
            return
        _refuse_local(location, self._remote)
        _refuse_shards(checkpoint, ())
        checkpoint = with_pickled(checkpoint)
        with self._guard:
            self._settle()
            self._raise_what_failed(lasting=True)
            while len(self._sending) >= _MOST_IN_FLIGHT and location not in self._sending:
                self._finish(next(iter(self._sending)))
            self._warn_of_same_name(location)
            self._doomed.pop(location, None)
            self._show()
            self._saves += 1  # also if it fails: then what is older stays until another one is through
            self._send(checkpoint, location)
            self._show()
            if not self._take(location):
                self._finish(location)
                self._unseen += [self._failed[location]] if location in self._failed else []
        if not _is_fitting():
            self._finish(location)
            with self._guard:
                self._settle()
                self._raise_what_failed(lasting=False)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any | None = None,
        weights_only: bool | None = None,  # noqa: FBT001  Lightning passes it by position
    ) -> dict[str, Any]:
        """What was saved under a path, or in a local file, which is read as Lightning does.

        Raises:
            NotFoundError: there is nothing.
            DamagedError: it is not intact.
        """
        location = _location(path)
        if os.path.isfile(location) or _is_scratch(location):
            return TorchCheckpointIO().load_checkpoint(location, map_location, weights_only)
        self._finish(_target(location))
        # Where ranks have not found each other yet, each reads for itself.
        with self._opened(location, alone=not (dist.is_available() and dist.is_initialized())) as run:
            restored = run.restore(
                map_location="cpu" if map_location is None else map_location,
                weights_only=weights_only is not False,
            )
        if restored is None:
            raise errors.NotFoundError(
                f"Checkpoint file not found: {location} is no file, and no folder with a checkpoint in it (a save that "
                "was cut off may leave such a folder)"
            )
        self._loaded[location] = self._loaded[_target(location)] = restored.name
        return with_opened(dict(restored), location, weights_only=weights_only is not False, map_location=map_location)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove what lies under a path, as soon as something that was saved later is confirmed."""
        location = _location(path)
        if _is_scratch(location) or os.path.isfile(location):
            TorchCheckpointIO().remove_checkpoint(location)
            return
        if location in self._loaded:
            log.info("%s stays: the training goes on from it", location)
            return
        with self._guard:
            self._doomed[location] = max(self._saves, self._numbers.get(location, 0) + 1)
            if location in self._failed and passes(self._failed[location]):
                del self._failed[location]  # nobody misses it
            self._show()
            self._settle()

    def teardown(self) -> None:
        """Wait for the uploads, and remove what was to go.

        Raises:
            StorageError: what failed, and nothing has taken its place.
        """
        with self._guard:
            for location in [*self._sending]:
                self._finish(location)
            self._settle()
            self._underway = Underway()  # what has not gone by now stays, and is shown again
            for location in self._failed:
                _remove_if_empty(location)
            self._raise_what_failed(lasting=False)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what belongs to this process."""
        ours = {"_sending", "_failed", "_unseen", "_underway", "_guard"}
        return {name: value for name, value in self.__dict__.items() if name not in ours}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin in another process with nothing on its way."""
        self.__dict__.update(state)
        self._become_of_this_process()

    def _opened(self, location: str, *, alone: bool = False) -> StorageCheckpoint:
        return StorageCheckpoint(location, remote=self._remote, alone=alone, **self._options)

    def _send(self, checkpoint: dict[str, Any], location: str) -> None:
        """Let a save set out, behind the one before at this place."""
        before = self._sending.get(location)
        run = before.run if before else self._opened(location, alone=True)
        try:
            older = before.older if before else {found.name for found in run.list()}
            if before is None and (resumed := self._loaded.get(location)) is not None:
                run.saver.go_on_from(resumed)  # no rule of its own removes it then
            handle = run.save(checkpoint, int(checkpoint.get("global_step", 0)))
        except BaseException:
            if before is None:
                run.close()
            raise
        self._failed.pop(location, None)
        self._sending.pop(location, None)  # it is the newest now
        self._sending[location] = _Sending(run, handle, self._saves, older)
        self._numbers[location] = self._saves

    def _warn_of_same_name(self, location: str) -> None:
        """Tell once that an ``AsyncCheckpointIO`` lets names come again: it keeps its saves to itself at first."""
        is_meant = location in self._doomed or posixpath.basename(location).startswith("last")
        is_other_thread = threading.current_thread() is not threading.main_thread()
        if self._has_warned or not is_other_thread or is_meant or location not in self._numbers:
            return
        self._has_warned = True
        log.warning(
            "%s takes the place of an earlier save of the same name: without AsyncCheckpointIO around it, "
            "StorageCheckpointIO saves behind the training too, and ModelCheckpoint gives such a name a version",
            location,
        )

    def _take(self, location: str) -> bool:
        """Let a path be seen to be taken while its save is on its way: Lightning then gives the next one a version.

        Returns:
            Whether Lightning sees it; if not, the save has to arrive first.
        """
        kind = locations.parse(location)
        if isinstance(kind, locations.DirectoryLocation):
            return _is_folder_made(location)
        if isinstance(kind, locations.FsspecLocation):
            return self._is_url_taken(location)
        if "://" in location and not location.startswith(_OURS):
            log.warning(
                "Lightning cannot look at %s, so names that repeat take each other's place: write ai4os://REMOTE/PATH",
                locations.shown(location),
            )
        return True

    def _is_url_taken(self, location: str) -> bool:
        """Whether a folder could be made that shows in the file system that Lightning asks."""
        above, name = posixpath.split(location.rstrip("/"))
        with suppress(*PASSING):
            open_store(above, self._remote, create=True, patience=Patience()).make_folder(name)
        files, path = fsspec.core.url_to_fs(location)
        files.invalidate_cache()
        return bool(files.exists(path))

    def _show(self) -> None:
        """Let the file systems of this process show what is on its way, and not what is to go."""
        self._underway.going = frozenset(_paths(self._doomed))
        self._underway.coming = frozenset(_paths([*self._sending, *self._failed])) - self._underway.going

    def _settle(self) -> None:
        """Close what has arrived, and remove what may go."""
        for location, sending in [*self._sending.items()]:
            if sending.is_through:
                self._finish(location)
        for location, saves in [*self._doomed.items()]:
            if saves <= self._safe and location not in self._sending and self._remove_if_possible(location):
                self._failed.pop(location, None)
                self._numbers.pop(location, None)
                del self._doomed[location]
        self._show()

    def _finish(self, location: str) -> None:
        """Wait until a save has arrived, or has failed."""
        sending = self._sending.get(location)
        if sending is None:
            return
        run, handle = sending.run, sending.handle
        with suppress(errors.StorageError):  # closing tells of it
            handle.wait(timeout_s=_USUALLY_ARRIVED_S)
        is_early = is_on_the_server(handle.level)
        run.saver.spool.drop_sent()
        try:
            run.close()
        except errors.StorageError as error:
            if location not in self._doomed or not passes(error):
                self._failed[location] = error
        if is_on_the_server(handle.level):  # nothing goes before that
            self._safe = max(self._safe, sending.number)
            if not is_early:
                self._drop_late(location)
            for name in sending.older - {self._loaded.get(location)}:
                self._remove_if_possible(f"{location}/{name.attempt}")
        if self._sending.get(location) is sending:
            del self._sending[location]
        self._show()

    def _drop_late(self, location: str) -> None:
        """Take from the spool what arrived while its run was being closed."""
        with suppress(errors.StorageError), self._opened(location, alone=True) as run:
            run.saver.spool.drop_sent()

    def _raise_what_failed(self, *, lasting: bool) -> None:
        """Raise an error once; of those that may pass the training learns in the end.

        Args:
            lasting: leave those that may pass.
        """
        failed = [*self._failed.items()]
        told = [location for location, error in failed if not (lasting and passes(error))]
        raised = [self._failed.pop(location) for location in told]
        if not lasting:
            raised, self._unseen = raised + self._unseen, []
        if raised:
            raise raised[0]  # each of them is in the log

    def _remove_if_possible(self, location: str) -> bool:
        """Take a folder away, or leave it where the storage cannot be reached now: it does no harm."""
        try:
            self._remove(location)
        except PASSING as error:
            log.warning("%s stays for now: %s", location, error)
            return False
        return True

    def _remove(self, location: str) -> None:
        """Take a folder away: the manifest first, so that nothing half removed looks whole. Of a link only itself."""
        if os.path.islink(location):
            os.unlink(location)
            return
        above, name = posixpath.split(location.rstrip("/"))
        store = open_store(above, self._remote, create=True, patience=Patience())
        entries = store.list_below(name)
        loaded = {str(one) for one in self._loaded.values()}
        if any(f"{one}/" in entry.key for entry in entries for one in loaded):
            log.info("%s stays: the training goes on from it", location)
            return
        expunge(store, name, first=[one.key for one in entries if posixpath.basename(one.key) == MANIFEST])
        log.info("removed the checkpoint %s", location)


class _Sending(NamedTuple):
    """A save that is on its way."""

    run: StorageCheckpoint
    handle: SaveHandle
    number: int
    older: set[CheckpointName]  # what was there before, which goes when this one has arrived

    @property
    def is_through(self) -> bool:
        """Whether nothing more will come of it."""
        return self.handle.error is not None or reaches(self.handle.level, self.run.saver.best_level)


def _is_fitting() -> bool:
    """Whether this thread trains. Lightning tells a plugin of the end, and not of the beginning."""
    return any(frame.f_code in _FITS for frame, _ in traceback.walk_stack(None))


def _location(path: str | os.PathLike[str]) -> str:
    """A path as it was meant: also of ``Path("ai4os://rshare/x")``."""
    return _COLLAPSED.sub(r"\g<scheme>://", os.fspath(path))


def _paths(places: Iterable[str]) -> Iterator[str]:
    """Those that a file system ``ai4os://`` shows, as it calls them."""
    return (place.removeprefix(_OURS).strip("/") for place in places if place.startswith(_OURS))


def _is_scratch(location: str) -> bool:
    """Whether Lightning's tuner saves it for itself, to remove it when it has tried what it wanted to."""
    return _SCRATCH.fullmatch(posixpath.basename(location)) is not None


def _target(location: str) -> str:
    """What a link of this machine leads to, as ``save_last="link"`` makes one; any other location as it is."""
    return os.path.realpath(location) if os.path.islink(location) else location


def _is_folder_made(path: str) -> bool:
    """Whether there is a directory now, as this machine sees it: a mount's own listing may be minutes old."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError:  # the save itself tells of it
        return os.path.exists(path)
    return True


def _remove_if_empty(path: str) -> None:
    """Leave no empty directory of a save that failed."""
    with suppress(OSError):
        os.rmdir(path)


def _refuse_local(location: str, remote: str | Remote | None) -> None:
    """Refuse a path of this machine that was to be another: Lightning puts the current directory before it.

    Raises:
        LocationError: it is one.
    """
    if not location.startswith("/") or ":" not in location:
        return
    names = {"ai4os", LINKED, *_names(remote)}
    parts = location.split("/")
    for number, part in enumerate(parts):
        name, colon, begin = part.partition(":")
        if colon and name.lower() in names:
            meant = [*([] if name == "ai4os" else [name]), *([begin] if begin else []), *parts[number + 1 : -1]]
            raise errors.LocationError(
                f"{location} is a path of this machine, made of a location by Lightning: write it as a string, "
                f"dirpath='ai4os://{'/'.join(meant)}'"
            )


def _names(remote: str | Remote | None) -> Iterator[str]:
    """The remotes that may be meant."""
    given = remote.name if isinstance(remote, Remote) else remote
    if given:
        yield given.lower()
    yield from (known.name.lower() for known in Remote.known() if known.name)


def _refuse_shards(value: Any, place: tuple[str, ...]) -> None:
    """Refuse a state of which this process holds a part.

    Raises:
        StateError: it is one.
    """
    if isinstance(value, torch.Tensor):
        if any(kind.__name__ in _PARTS_OF_RANKS for kind in type(value).__mro__):
            raise errors.StateError(
                f"{'.'.join(place)} is a {type(value).__name__}, of which each rank holds a part, and a checkpoint is "
                "one file of rank 0: use strategy='ddp', or let the strategy gather the state, as "
                "FSDPStrategy(state_dict_type='full') and ModelParallelStrategy(save_distributed_checkpoint=False) do"
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_shards(item, (*place, str(key)))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _refuse_shards(item, (*place, str(number)))


def _finish_at_exit(io: StorageCheckpointIO) -> None:
    """Let a process whose plugin nobody tears down send what is on its way, as under a plugin that wraps this one."""
    reference, pid = weakref.ref(io), os.getpid()

    def finish() -> None:
        if (io := reference()) is None or os.getpid() != pid:
            return
        finish_runs()
        if all(sending.is_through for sending in io._sending.values()):  # noqa: SLF001  of this module
            with suppress(errors.StorageError):  # each is in the log
                io.teardown()

    # Not atexit: it comes after the pools of threads that listings use have ended.
    threading._register_atexit(finish)  # type: ignore[attr-defined]  # noqa: SLF001  as concurrent.futures does
