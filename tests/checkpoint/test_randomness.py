"""Random states are restored exactly, and are plain."""

from __future__ import annotations

import io
import random

import numpy as np
import torch

from ai4os_data.checkpoint.randomness import random_states, set_random_states


def draws() -> list[float]:
    """Draw from every source, also the numbers that a source keeps for the next time."""
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),  # noqa: NPY002  the source that is meant
        np.random.randn(),  # noqa: NPY002
        torch.rand(1).item(),
        torch.randn(1).item(),
    ]


def test_every_source_goes_on_where_it_was() -> None:
    """The states go through a file that is loaded without running its code; halves of Gaussian pairs too."""
    draws()
    file = io.BytesIO()
    torch.save(random_states(), file)
    expected = [draws(), draws()]
    file.seek(0)
    set_random_states(torch.load(file, weights_only=True))
    assert [draws(), draws()] == expected


def test_states_are_on_the_cpu_whatever_the_default_device_is() -> None:
    """On another device their values would be lost, or copied twice."""
    with torch.device("meta"):
        states = random_states()
    assert states["python"][1].tolist() == list(random.getstate()[1])
