"""The random states of a process, as tensors and primitives: Python's, NumPy's, torch's, and those of its GPUs."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """The states as they are now."""
    return {
        "python": _python_state(),
        "numpy": _numpy_state(),
        "torch": torch.get_rng_state(),
        # Only if CUDA is in use already: asking would start it.
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Set the states that `random_states` gave; those of GPUs that are not there are left out."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    _set_numpy_state(states["numpy"])
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_available():
        for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state.cpu(), device)


def _python_state() -> tuple[int, torch.Tensor, float | None]:
    version, numbers, gauss = random.getstate()
    return version, torch.tensor(numbers, dtype=torch.int64, device="cpu"), gauss  # whatever the default device is


def _numpy_state() -> dict[str, Any]:
    _, numbers, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002  the one that user code draws from
    return {
        "numbers": torch.from_numpy(np.asarray(numbers).astype(np.int64)),
        "position": int(position),
        "has_gauss": int(has_gauss),
        "gauss": float(gauss),
    }


def _set_numpy_state(state: dict[str, Any]) -> None:
    numbers = state["numbers"].cpu().numpy().astype(np.uint32)
    np.random.set_state(  # noqa: NPY002  the one that user code draws from
        ("MT19937", numbers, state["position"], state["has_gauss"], state["gauss"])
    )
