"""The arguments of save are understood, or refused with words about what to write instead."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from ai4os_data.checkpoint.arguments import checked_metrics, checked_state


def test_state_is_taken_as_it_is() -> None:
    """Any mapping is a state."""
    state = {"model": torch.nn.Linear(1, 1)}
    assert checked_state(state) is state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (torch.nn.Linear(1, 1), r"this is a Linear: write save\(\{'model': model\}, step\)"),
        (torch.nn.ModuleDict(), r"this is a ModuleDict: write save\(\{'model': model\}, step\)"),
        (torch.optim.SGD([torch.ones(1)]), r"this is a SGD: write save\(\{'optimizer': optimizer\}, step\)"),
        ([1], r"this is a list: .* restore with restore\(into=\{'state': state\}\)"),
        (None, "this is a NoneType"),
    ],
)
def test_state_without_names_is_refused_with_what_to_write(state: Any, message: str) -> None:
    """The error for a model alone, which many will try first, says what to write."""
    with pytest.raises(TypeError, match=message):
        checked_state(state)


def test_metric_is_a_number_of_any_kind() -> None:
    """Numbers of Python, NumPy and torch are metrics, also in arrays of one element and with a gradient."""
    values: list[Any] = [
        2,
        2.0,
        Decimal(2),
        np.float32(2),
        np.int64(2),
        np.array([[2]]),
        torch.tensor(2),
        torch.tensor([2.0], requires_grad=True),
        torch.tensor([2.0], dtype=torch.bfloat16),
    ]
    for value in values:
        numbers = checked_metrics({"loss": value, 3: True})
        assert numbers == {"loss": 2.0, "3": 1.0}
        assert type(numbers["loss"]) is float
    assert math.isnan(checked_metrics({"loss": float("nan")})["loss"])
    assert checked_metrics(None) == {}


@pytest.mark.parametrize(
    "value", [None, "2", b"2", torch.ones(2), np.ones(0), torch.ones(1, device="meta"), 1 + 2j, [2.0], {}, 10**400]
)
def test_metric_that_is_no_number_is_refused_by_its_name(value: Any) -> None:
    """The error names the metric, since there may be many."""
    with pytest.raises(TypeError, match=r"the metric 'accuracy' is .*, and not a number or a tensor of one element"):
        checked_metrics({"loss": 1, "accuracy": value})


def test_metrics_have_names() -> None:
    """A number without a name is refused."""
    with pytest.raises(TypeError, match=r"as \{'loss': 0.5\}, and not a float"):
        checked_metrics(0.5)  # type: ignore[arg-type]
