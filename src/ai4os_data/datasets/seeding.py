"""Random numbers of augmentations: they follow from seed, epoch and index, whichever process draws them."""

from __future__ import annotations

import operator
import random
from contextlib import contextmanager
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_OF_A_BATCH = -1
_SEED_BYTES = 8


def derived_seed(*numbers: int) -> int:
    """A seed of 63 bits that follows from these numbers; neighbouring numbers give unrelated seeds."""
    digest = blake2b(",".join(map(str, numbers)).encode(), digest_size=_SEED_BYTES).digest()
    return int.from_bytes(digest, "little") >> 1


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """The seed for one sample in one epoch."""
    return derived_seed(seed, epoch, _plain(index))


def batch_seed(seed: int, epoch: int, index: int) -> int:
    """The seed for functions of a whole batch, by the index of its first sample."""
    return derived_seed(seed, epoch, _OF_A_BATCH, _plain(index))


def _plain(index: Any) -> Any:
    """An index of any integer type as an int; anything else, such as a name, as it is."""
    try:
        return operator.index(index)
    except TypeError:
        return index


def seed_all(seed: int) -> None:
    """Seed what augmentations draw from: ``random``, NumPy's global generator, and torch's on the CPU."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002  it is the one that transforms draw from
    # Not `torch.manual_seed`, which would seed the caller's accelerators too.
    torch.default_generator.manual_seed(seed)


@contextmanager
def kept_states() -> Iterator[None]:
    """Restore the caller's random states after the block."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  as above
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002  as above
        torch.set_rng_state(states[2])
