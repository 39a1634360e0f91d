"""`StorageCheckpoint`: checkpoints on network storage that no failure takes away.

Training waits for one copy in memory. In the background the copy is written to the spool on the local disk, sent to the
server and verified there. The manifest comes last, and only then may an older checkpoint be removed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from ai4os_data import errors
from ai4os_data.cache import DiskCache
from ai4os_data.checkpoint.arguments import checked_step
from ai4os_data.checkpoint.launchers import check_group
from ai4os_data.checkpoint.loading import check_into, load_checkpoint
from ai4os_data.checkpoint.preemption import PreemptionGuard
from ai4os_data.checkpoint.randomness import set_random_states
from ai4os_data.checkpoint.ranks import Ranks
from ai4os_data.checkpoint.restoring import Restoring
from ai4os_data.checkpoint.retention import Mode, Retention
from ai4os_data.checkpoint.saving import Saver
from ai4os_data.checkpoint.space import parse_limit
from ai4os_data.checkpoint.verifying import damaged
from ai4os_data.http import Patience
from ai4os_data.stores import LEVELS, open_store
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from typing_extensions import Self

    from ai4os_data.checkpoint.handle import SaveHandle
    from ai4os_data.checkpoint.restored import Checkpoint, Restored
    from ai4os_data.locations import Remote
    from ai4os_data.stores import Durability, Store

RANK_TIMEOUT_S = 600.0
BUDGET_S = 5.0  # the platform kills a process this long after SIGTERM


class StorageCheckpoint:
    """The checkpoints of one run at a location.

    Under torch.distributed every rank makes one, after `init_process_group`, and calls `save` and `restore` together
    with the others; rank 0 writes.

    Args:
        location: the run's own folder: ``rshare:runs/flowers``, a path, or anything else that a dataset takes. It need
            not exist.
        remote: a remote's name, or a `Remote`.
        keep_last: how many of the newest stay.
        keep_best: how many of the best by ``monitor`` stay beside them.
        keep_every: checkpoints whose step is a multiple of it stay too.
        monitor: the metric that says how good one is.
        mode: ``"max"`` if high values of it are good, ``"min"`` if low ones are. It may be left out if the metric's
            name has the word "loss" or "error" in it.
        spool: a directory on the local disk; by default ``$AI4OS_DATA_SPOOL``, or one beside the cache's.
        spool_limit: the most that the spool may take, in bytes or as ``"20GiB"``; by default what the disk has.
        durability: the level that ``wait()`` waits for and `close` insists on; ``"best"`` is the highest that the store
            can reach.
        save_random_states: whether the random states of Python, NumPy, torch and CUDA are saved with each state.
        cache: which caches shrink when the spool is short of room: ``"auto"`` is each cache of this process on the
            spool's disk; a cache, or None for none.
        rank_timeout_s: how many seconds ranks wait for each other.
        alone: this process saves and restores by itself, whatever other ranks there are.

    Raises:
        CheckpointError: a launcher has started several processes, and there is no process group yet.
        DurabilityError: the store cannot reach the level.
        StorageError: the location cannot be listed.
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | Store,
        *,
        remote: str | Remote | None = None,
        keep_last: int = 2,
        keep_best: int = 0,
        keep_every: int | None = None,
        monitor: str | None = None,
        mode: Mode | None = None,
        spool: str | os.PathLike[str] | None = None,
        spool_limit: int | str | None = None,
        durability: Durability = "best",
        save_random_states: bool = True,
        cache: DiskCache | Literal["auto"] | None = "auto",
        rank_timeout_s: float = RANK_TIMEOUT_S,
        alone: bool = False,
    ) -> None:
        retention = Retention(keep_last, keep_best, keep_every, monitor, mode)
        if durability != "best" and durability not in LEVELS:
            raise ValueError(f"durability is 'best', 'local', 'mount' or 'confirmed', not {durability!r}")
        if cache is not None and cache != "auto" and not isinstance(cache, DiskCache):
            raise TypeError(f"cache is a DiskCache, 'auto' or None, not {cache!r}")
        limit_bytes = parse_limit(spool_limit)
        if not alone:
            check_group(os.environ)
        store = open_store(location, remote, create=True, patience=Patience())
        self.saver = Saver(
            store,
            Ranks(rank_timeout_s, alone=alone),
            retention,
            spool=spool,
            limit_bytes=limit_bytes,
            cache=cache,
            durability=durability,
            save_random_states=save_random_states,
        )

    # --- saving

    def save(self, state: Mapping[str, Any], step: int, metrics: Mapping[str, Any] | None = None) -> SaveHandle:
        """Save a state. It may be changed as soon as this returns.

        Args:
            state: objects with a ``state_dict()``, tensors, arrays, primitives, and containers of such, by name. Named
                tuples and containers of other classes are restored as plain ones.
            step: of the training; the highest one of the newest attempt is restored.
            metrics: numbers that belong to the step.

        Raises:
            StateError: the state holds something else.
            TypeError: the state has no names, or a metric is no number.
            StorageError: the error of an earlier save, if it will not pass by itself; this save continues nevertheless.
        """
        failed = self.saver.failures.lasting[:]
        handle = self.saver.save(state, step, metrics)
        self.saver.failures.raise_first(failed)
        return handle

    # --- restoring

    def restore(
        self,
        into: Mapping[str, Any] | None = None,
        step: int | None = None,
        map_location: Any = "cpu",
        weights_only: bool = True,  # noqa: FBT001, FBT002  as torch.load has it
    ) -> Restored | None:
        """Read the newest intact checkpoint, from the spool or the server; None if there has never been one.

        What is saved afterwards belongs to a new attempt, whose parent this checkpoint is.

        Args:
            into: objects to load, by the names that they were saved under; the random states are set then too.
            step: this step instead of the newest one. If several have it, the newest one of the branch that
                ``restore()`` resumes is taken, before those of abandoned branches.
            map_location: where tensors go, as in `torch.load`.
            weights_only: as in `torch.load`; no code of the file is run.

        Raises:
            DamagedError: there are checkpoints, and none of them is intact.
            StateMismatchError: ``into`` does not fit, or holds what nothing can be loaded into, on a new run too.
            TypeError: ``into`` has no names.
            ValueError: ``step`` is not a whole number from 0 up.
            StorageError: the store cannot be listed or read.
        """
        self.saver.check_usable()
        step = None if step is None else checked_step(step)
        if into is not None:
            check_into(into)
            self.saver.asked = frozenset(into)
        found = Restoring(self.saver, self.saver.ranks).resumed(step, map_location, weights_only=weights_only)
        if found is None:
            return None
        restored, random = found
        if into is not None:
            load_checkpoint(into, restored.state, restored.name)
            if random is not None:
                set_random_states(random)
        return restored

    # --- looking

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that `restore` would try first; None if there is none."""
        return self.saver.look().latest()

    def list(self) -> list[Checkpoint]:
        """Every checkpoint with a readable manifest, on the store and in the spool, newest first."""
        history = self.saver.look()
        self.saver.catalogue.learn(history)
        return history.listed()

    def verify(self) -> dict[str, str]:
        """Read every checkpoint and compare its hashes. Returns the damaged ones, each with what is wrong with it."""
        return damaged(self.saver)

    # --- around it

    def preemption_guard(self, budget_s: float = BUDGET_S) -> PreemptionGuard:
        """Turn SIGTERM and SIGINT into a flag: look at ``guard.requested`` in the loop, then call ``guard.save()``.

        Args:
            budget_s: how long the process may live after the signal.
        """
        return PreemptionGuard(self.saver, budget_s)

    def stats(self) -> dict[str, float]:
        """How many saves there were, how long training has waited for them, and what became of them."""
        return dict(self.saver.counts)

    def close(self, timeout_s: float | None = None) -> None:
        """Wait for the last upload.

        If the server is down, sending is tried for another minute. What is not sent then stays in the spool, and the
        next start of the run sends it. A process that ends without calling this waits as well, and logs what cannot be
        sent.

        Args:
            timeout_s: the longest wait; by default it lasts as long as bytes arrive.

        Raises:
            StorageError: what failed.
        """
        self.saver.close(timeout_s)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close. An error of the close does not hide the error that ended the block."""
        try:
            self.close()
        except (errors.StorageError, OSError) as failure:
            if error is None:
                raise
            log.error("%s", failure)

    def __repr__(self) -> str:
        """A short description for people."""
        return f"StorageCheckpoint({self.saver.store.location!r})"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: its threads and locks belong to this process."""
        raise TypeError(
            f"{self!r} belongs to the process that made it, and cannot be pickled or copied: hand the location on, and "
            "make one there"
        )
