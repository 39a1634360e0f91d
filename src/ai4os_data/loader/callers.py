"""Lets a loader resume at the right position under Lightning and Fabric, which do not pass on all they know.

Fabric's wrapper has no state and counts epochs from 0 in each process; Lightning keeps the states of loaders that it
set up before it restored them. Neither can be reached through a public interface, so the calling frames are searched,
at most once a pass. If a name changes there, nothing is found and nothing is done.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_WRAPPER = "_FabricDataLoader"
_FRAMES = 14  # between a caller and the order of a loader


def count_on(epoch_set: int, epoch: int) -> bool:
    """Let Fabric's wrapper count on from an epoch, if the wrapper is setting another one now. Returns whether it is.

    Args:
        epoch_set: the epoch that it sets.
        epoch: the one that the loader is in.
    """
    wrapper = _caller(_WRAPPER, "__iter__")
    if not hasattr(wrapper, "_num_iter_calls"):
        return False
    wrapper._num_iter_calls += epoch - epoch_set  # noqa: SLF001  Fabric has no public way to it
    return True


def left_state(loader: Any) -> Mapping[str, Any] | None:
    """The state that Lightning's trainer holds for a loader while it resumes in mid-epoch, and has not given to it.

    The trainer gives states to loaders when it sets them up. If ``configure_optimizers`` asked for
    ``trainer.estimated_stepping_batches``, it has set them up before it has the states.
    """
    loop = _caller("_TrainingEpochLoop", "advance")
    fit_loop = getattr(getattr(loop, "trainer", None), "fit_loop", None)
    states = getattr(fit_loop, "_combined_loader_states_to_load", None)
    if fit_loop is None or not states or not fit_loop.restarting or not loop.batch_progress.current.ready:
        return None
    loaders = [one for one in fit_loop._combined_loader.flattened if hasattr(one, "load_state_dict")]  # noqa: SLF001  the same
    found = [state for one, state in zip(loaders, states, strict=True) if one is loader]
    return found[0] if found else None


def _caller(kind: str, method: str) -> Any:
    """The object of one of Lightning's classes whose method is calling; None if there is none."""
    if not {"lightning", "pytorch_lightning", "lightning_fabric"} & sys.modules.keys():
        return None
    frame = sys._getframe(1)  # noqa: SLF001  it is documented
    for _ in range(_FRAMES):
        # Reading the locals of a frame keeps them alive, so no other frame is asked.
        if frame.f_code.co_name == method and "lightning" in frame.f_code.co_filename:
            caller = frame.f_locals.get("self")
            if type(caller).__name__ == kind:
                return caller
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None
