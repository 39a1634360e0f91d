"""A loader under Lightning and Fabric resumes at the right position, although these do not pass on all they know.

Fabric's wrapper has no state and counts epochs from 0 in each process; Lightning keeps the states of loaders that it
set up before it restored them. No public interface leads to either, so the calling frames are searched, at most once
a pass: if a name changes there, nothing is found and nothing is done.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_WRAPPER = "_FabricDataLoader"
_FRAMES = 14  # between a caller and the order of a loader


def count_on(epoch_set: int, epoch: int) -> bool:
    """Let Fabric's wrapper count on from an epoch, if it is what sets another one now; whether it is.

    Args:
        epoch_set: by it.
        epoch: the one that the loader is in.
    """
    wrapper = _caller(_WRAPPER, "__iter__")
    if not hasattr(wrapper, "_num_iter_calls"):
        return False
    wrapper._num_iter_calls += epoch - epoch_set  # noqa: SLF001  Fabric has no public way to it
    return True


def left_state(loader: Any) -> Mapping[str, Any] | None:
    """The state that Lightning's trainer holds for a loader as it resumes in mid-epoch, and has not given to it.

    It gives the states as it sets the loaders up, which it has done before if ``trainer.estimated_stepping_batches``
    was asked for in ``configure_optimizers``.
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
    """The object of one of Lightning's classes whose method has led here; None if there is none."""
    if not {"lightning", "pytorch_lightning", "lightning_fabric"} & sys.modules.keys():
        return None
    frame = sys._getframe(1)  # noqa: SLF001  it is documented
    for _ in range(_FRAMES):
        # A frame that is asked for its locals keeps them as they are now, so no other frame is asked.
        if frame.f_code.co_name == method and "lightning" in frame.f_code.co_filename:
            caller = frame.f_locals.get("self")
            if type(caller).__name__ == kind:
                return caller
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None
