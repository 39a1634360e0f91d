"""Lets the loaders of a Lightning training resume where the checkpoint says, whenever Lightning sets them up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ai4os_data.loader import StorageDataLoader
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import Trainer


class LoaderStates:
    """The states of the loaders in the checkpoint that a training resumes from.

    Lightning gives the states to the loaders when it sets them up, but not if it has set them up before, because
    ``configure_optimizers`` asked for ``trainer.estimated_stepping_batches``. At the end of an epoch it gives none. It
    then sets the epoch on samplers with ``set_epoch``; others would begin with the first epoch.
    """

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []

    def note(self, checkpoint: Mapping[str, Any]) -> None:
        """Record the states in a checkpoint."""
        fit_loop = checkpoint.get("loops", {}).get("fit_loop", {})
        self._states = fit_loop.get("state_dict", {}).get("combined_loader", [])

    def load(self, trainer: Trainer) -> None:
        """Let the loaders resume there, before Lightning sets the epoch."""
        loop, states, self._states = trainer.fit_loop, self._states, []
        left, loop._combined_loader_states_to_load = loop._combined_loader_states_to_load, []
        combined, fetcher = loop._combined_loader, loop._data_fetcher
        if combined is None or fetcher is None or not states:
            return
        stateful = [loader for loader in combined.flattened if hasattr(loader, "load_state_dict")]
        if left and _is_rest(trainer):
            combined._load_state_dicts(states)  # it raises if a state does not fit
        elif len(states) != len(stateful):
            return
        unset = [
            (loader, state)
            for loader, state in zip(stateful, states, strict=True)
            if isinstance(loader, StorageDataLoader) and not _has_set_epoch(loader)
        ]
        if not _is_rest(trainer):
            for loader, state in unset:
                _begin_after(loader, state)
            return
        ended = [(loader, state) for loader, state in unset if state.get("ended")]
        for loader, state in ended:
            loader.load_state_dict({**state, "told": state["epoch"] - 1})
        if left or ended:
            iter(fetcher)
        for loader, state in ended:
            loader.set_epoch(state["epoch"] - 1)  # another loader is longer, so that the next pass has not begun


def end_epoch(trainer: Trainer, following: int) -> None:
    """Skip the rest of the epoch in each loader: Lightning resumes with the following one."""
    combined = trainer.fit_loop._combined_loader
    for loader in combined.flattened if combined is not None else ():
        if isinstance(loader, StorageDataLoader):
            if _has_set_epoch(loader):
                loader.set_epoch(following)
            elif _is_under_way(state := loader.state_dict()):
                loader.set_epoch(state["epoch"] + 1)


def begins_anew(trainer: Trainer) -> list[str]:
    """The kinds of loaders that do not save their position, and so begin a resumed epoch anew."""
    combined = trainer.fit_loop._combined_loader
    loaders = combined.flattened if combined is not None else ()
    return [type(loader).__name__ for loader in loaders if not callable(getattr(loader, "state_dict", None))]


def _begin_after(loader: StorageDataLoader, state: Mapping[str, Any]) -> None:
    """Let a loader begin the epoch after the one that a state is of."""
    try:
        loader.load_state_dict(state)
    except ValueError as error:
        tell_once(f"the next epoch begins with other samples, or another order, than the last one had: {error}")
        loader.set_epoch(state["epoch"])
    if _is_under_way(state):
        iter(loader)  # moves a sampler's own generator past the epoch
        loader.set_epoch(state["epoch"] + 1)


def _is_under_way(state: Mapping[str, Any]) -> bool:
    return bool(state["batches"] or state["others"])


def _is_rest(trainer: Trainer) -> bool:
    """Whether a training resumes in mid-epoch."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return not progress.is_last_batch and 0 < progress.current.ready < trainer.num_training_batches


def _has_set_epoch(loader: StorageDataLoader) -> bool:
    """Whether its sampler has ``set_epoch``, which Lightning calls."""
    samplers = loader.sampler, getattr(loader.batch_sampler, "sampler", None)
    return any(callable(getattr(sampler, "set_epoch", None)) for sampler in samplers)
