"""A state is loaded into all objects or into none, as far as that can be checked beforehand."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ai4os_data import errors
from ai4os_data.checkpoint.loading import load_into
from ai4os_data.loader.sampler import StorageSampler
from tests.support.crowd import Warnings
from tests.support.runs import open_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class Counting:
    """An object of a user's own class, which refuses large numbers."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def state_dict(self) -> list[int]:
        """Return a state that is no mapping."""
        return [self.count]

    def load_state_dict(self, state: list[int]) -> None:
        """Take the state, if it is small."""
        if state[0] > 5:
            message = f"{state[0]} is too much"
            raise ValueError(message)
        (self.count,) = state


def adam(*groups: int) -> torch.optim.Optimizer:
    """An optimizer whose groups have these numbers of parameters."""
    return torch.optim.Adam([{"params": [torch.nn.Parameter(torch.ones(1)) for _ in range(n)]} for n in groups])


def steps(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """A scheduler of one kind."""
    return torch.optim.lr_scheduler.StepLR(optimizer, 3)


def chained(*lengths: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A scheduler that consists of others."""
    optimizer = adam(1)
    parts = [torch.optim.lr_scheduler.ConstantLR(optimizer, total_iters=length) for length in lengths]
    return torch.optim.lr_scheduler.SequentialLR(optimizer, parts, list(lengths[1:]))  # type: ignore[arg-type]


def test_containers_of_objects_are_loaded_as_they_are_saved(tmp_path: Path) -> None:
    """Lists, tuples and mappings may be nested; arrays are filled in place."""

    def objects(value: float) -> dict[str, Any]:
        net = torch.nn.Linear(2, 2)
        torch.nn.init.constant_(net.weight, value)
        return {
            "nets": [net, {"deep": (torch.full((3,), value), Counting(int(value)))}],
            "table": np.full((2, 2), value, dtype=np.float32),
            "number": np.array(value),
        }

    saved, target = objects(3.0), objects(0.0)
    with open_run(tmp_path / "run", tmp_path) as run:
        run.save(saved, 1)
        view = target["table"][0]
        run.restore(into=target)
    assert target["nets"][0].weight.unique().tolist() == [3.0]
    tensor, counting = target["nets"][1]["deep"]
    assert (tensor.tolist(), counting.count) == ([3.0] * 3, 3)
    assert (view.tolist(), float(target["number"])) == ([3.0, 3.0], 3.0)


@pytest.mark.filterwarnings("ignore")  # torch.ao is on its way out, and says so in several ways
def test_quantised_model_is_loaded(tmp_path: Path) -> None:
    """A quantised model is loaded by the versions in its state_dict."""
    saved, target = (
        torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            torch.nn.Sequential(torch.nn.Linear(4, 4)), {torch.nn.Linear}, dtype=torch.qint8
        )
        for _ in range(2)
    )
    with open_run(tmp_path / "run", tmp_path) as run:
        run.save({"model": saved}, 1)
        run.restore(into={"model": target})
    batch = torch.randn(2, 4)
    assert torch.equal(target(batch), saved(batch))


def test_lazy_module_is_loaded(tmp_path: Path) -> None:
    """A lazy module without shapes takes them from the state."""
    saved = torch.nn.LazyLinear(3)
    saved(torch.zeros(1, 4))
    target = torch.nn.Sequential(torch.nn.LazyLinear(3))
    with open_run(tmp_path / "run", tmp_path) as run:
        run.save({"model": torch.nn.Sequential(saved)}, 1)
        run.restore(into={"model": target})
    assert torch.equal(target.state_dict()["0.weight"], saved.weight)


@pytest.mark.parametrize(
    ("saved", "target", "message"),
    [
        (lambda: adam(2), lambda: adam(1, 1), "x has groups of [1, 1] parameters, and was saved with groups of [2]"),
        (lambda: adam(2), lambda: adam(3), "x has groups of [3] parameters, and was saved with groups of [2]"),
        (lambda: steps(adam(1)), lambda: adam(1), "which is no state of an optimizer"),
        (
            lambda: torch.optim.lr_scheduler.ExponentialLR(adam(1), 0.9),
            lambda: steps(adam(1)),
            "x was saved without step_size, by another kind",
        ),
        (lambda: steps(adam(1)), lambda: steps(adam(1, 1)), "x has 2 base_lrs, and was saved with 1"),
        (lambda: chained(1, 2), lambda: chained(1, 2, 3), "x has 3 _schedulers, and was saved with 2"),
        (
            lambda: torch.amp.GradScaler("cpu", enabled=False),
            lambda: torch.amp.GradScaler("cpu"),
            "x is enabled, and was disabled when it was saved",
        ),
        (
            lambda: torch.nn.Linear(1, 1),
            lambda: torch.nn.Linear(1, 1, device="meta"),
            "x.weight is on the meta device: give it memory with to_empty() first; x.bias is on",
        ),
        (lambda: torch.ones(1), lambda: torch.ones(1, device="meta"), "x is on the meta device"),
        (
            lambda: torch.ones(2),
            lambda: torch.ones(2, dtype=torch.int64),
            "x is torch.int64, and was saved as torch.fl",
        ),
        (lambda: torch.ones(2), lambda: torch.ones(1, 2), "x is a tensor of (1, 2), and was saved as (2,)"),
        (lambda: np.ones(2), lambda: np.ones(2, dtype="f4"), "and float32, and was saved as one of (2,) and float64"),
        (lambda: np.ones(2), lambda: np.ones(3), "x is an array of (3,) and float64, and was saved as one of (2,)"),
        (lambda: np.ones(2), lambda: np.broadcast_to(1.0, (2,)), "x is an array that may not be written to"),
        (lambda: torch.ones(2), lambda: np.ones(2), "x is an array of (2,) and float64, and was saved as (2,)"),
        (lambda: [1], lambda: [torch.ones(1), torch.ones(1)], "x has 2 items, and was saved with 1"),
        (lambda: {"a": 1}, lambda: [Counting()], "x is a list, and was saved as a dict"),
        (lambda: [1], lambda: torch.nn.Linear(1, 1), "x was saved as a list, not as a state_dict"),
    ],
)
def test_what_does_not_fit_is_found_before_anything_is_loaded(
    saved: Callable[[], Any], target: Callable[[], Any], message: str
) -> None:
    """A mismatch is found before the objects that fit are loaded, even if it comes after them."""
    value = saved()
    state = value.state_dict() if hasattr(value, "state_dict") else value
    good = torch.zeros(1)
    with pytest.raises(errors.StateMismatchError, match=re.escape(message)):
        load_into({"good": good, "x": target()}, {"good": torch.ones(1), "x": state})
    assert good.item() == 0


def test_state_that_fits_is_not_refused() -> None:
    """Every kind that is checked beforehand loads its own state; types of parameters may differ."""
    model, optimizer = torch.nn.BatchNorm1d(2), adam(1, 2)
    objects: dict[str, Any] = {
        "model": model,
        "optimizer": optimizer,
        "steps": steps(optimizer),
        "chained": chained(1, 2),
        "scaler": torch.amp.GradScaler("cpu"),
        "disabled": torch.amp.GradScaler("cpu", enabled=False),
    }
    state = {name: copy.deepcopy(value.state_dict()) for name, value in objects.items()}
    load_into(objects, state)
    half = torch.nn.BatchNorm1d(2, dtype=torch.float16)
    load_into({"model": half}, state)
    assert half.weight.dtype == torch.float16


class Renamed(torch.nn.Module):
    """A module that accepts a state of its older form."""

    def __init__(self) -> None:
        super().__init__()
        self.new = torch.nn.Parameter(torch.zeros(1))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        if f"{prefix}old" in state_dict:
            state_dict[f"{prefix}new"] = state_dict.pop(f"{prefix}old").reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *more)


class Growing(torch.nn.Module):
    """A module whose extra state has another size each time."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def get_extra_state(self) -> torch.Tensor:
        """The extra state."""
        return torch.zeros(self.size)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Take the extra state."""
        self.size = len(state)


def test_module_with_rules_of_its_own_decides_itself() -> None:
    """A state of an older version is no mismatch for it; other modules beside it are still checked."""
    target = torch.nn.ModuleDict({"renamed": Renamed(), "growing": Growing(1), "plain": torch.nn.Linear(1, 1)})
    state = {
        "renamed.old": torch.tensor([[7.0]]),
        "growing._extra_state": torch.zeros(4),
        "plain.weight": torch.ones(1, 1),
        "plain.bias": torch.ones(1),
    }
    load_into({"model": target}, {"model": state})
    assert target.state_dict()["renamed.new"].tolist() == [7.0]
    assert target["growing"].size == 4
    state["plain.bias"] = torch.ones(2)
    with pytest.raises(errors.StateMismatchError, match=r"model.plain.bias is \(1,\), and was saved as \(2,\)"):
        load_into({"model": target}, {"model": state})


def test_error_says_what_has_been_loaded_before() -> None:
    """An error that only the object itself can find says what has been loaded before it."""
    first, count = torch.zeros(1), Counting()
    state: Mapping[str, Any] = {"first": torch.ones(1), "nets": {"count": [9]}, "last": torch.ones(1)}
    with pytest.raises(errors.StateMismatchError) as caught:
        load_into({"first": first, "nets": {"count": count}, "last": torch.zeros(1)}, state)
    assert str(caught.value) == "nets.count cannot be loaded: 9 is too much; first had been loaded before it"
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(errors.StateMismatchError, match="too much; nothing had been loaded before it"):
        load_into({"count": count}, {"count": [9]})


def test_lack_of_memory_is_no_mismatch(caplog: pytest.LogCaptureFixture) -> None:
    """A lack of memory is raised as it is, and the log says what has been loaded."""

    class Large(Counting):
        def load_state_dict(self, state: list[int]) -> None:
            raise torch.cuda.OutOfMemoryError(state)

    with pytest.raises(torch.cuda.OutOfMemoryError):
        load_into({"first": torch.zeros(1), "large": Large()}, {"first": torch.ones(1), "large": [1]})
    assert "there is no memory to load large; first had been loaded before it" in caplog.text


def test_sampler_that_refuses_leaves_everything_as_it_was() -> None:
    """A sampler is loaded first, since only it can find that its dataset has grown."""
    model, sampler = torch.nn.Linear(1, 1), StorageSampler(range(10))
    saved = {"model": torch.nn.Linear(1, 1).state_dict(), "sampler": StorageSampler(range(9)).state_dict()}
    before = model.weight.clone()
    with pytest.raises(errors.StateMismatchError, match=r"sampler cannot be loaded: .* nothing had been loaded before"):
        load_into({"model": model, "sampler": sampler}, saved)
    assert torch.equal(model.weight, before)


def test_keys_of_any_class_can_be_left_out() -> None:
    """Keys of the checkpoint without an entry in into= are logged, in order."""
    target = torch.zeros(1)
    load_into({1: target}, {1: torch.ones(1), 2: {}, "a": {}})  # type: ignore[dict-item]
    assert target.item() == 1


@pytest.mark.parametrize(
    ("into", "message"),
    [
        (
            {"model": torch.nn.Linear(1, 1), "epoch": 0},
            r"epoch is of the type int.*leave it out.*restored\['epoch'\]",
        ),
        ({"best": 0.5}, "best is of the type float"),
        ({"name": "x"}, "name is of the type str"),
        ({"nothing": None}, "nothing is None"),
        ({"nets": {"g": 3}}, r"nets\.g is of the type int"),
        ({"list": [torch.zeros(1), 3]}, r"list\.1 is of the type int"),
        ({"set": {1}}, "set is of the type set"),
        ({"number": np.float64(1)}, "number is of the type float64"),
        ({"class": Counting}, "class is the class Counting: give an object of it"),
        ({"function": print}, "function is of the type builtin_function_or_method"),
    ],
)
def test_what_takes_no_state_is_refused_at_the_first_start_too(
    into: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """An object that takes no state is refused on a new run as after a restart."""
    with open_run(tmp_path / "run", tmp_path) as run:
        with pytest.raises(errors.StateMismatchError, match=message):
            run.restore(into=into)
        run.save(dict.fromkeys(into, 1), 1)
        with pytest.raises(errors.StateMismatchError, match=message):
            run.restore(into=into)


def test_into_without_names_is_refused(tmp_path: Path) -> None:
    """The error says what to write."""
    with open_run(tmp_path / "run", tmp_path) as run:
        with pytest.raises(TypeError, match=r"write restore\(into=\{'model': model\}\)"):
            run.restore(into=torch.nn.Linear(1, 1))  # type: ignore[arg-type]
        assert run.restore(into={}) is None


def test_list_that_contains_itself_takes_no_state(tmp_path: Path) -> None:
    """A list that contains itself is an error, and no endless walk."""
    circle: list[Any] = []
    circle.append(circle)
    with (
        open_run(tmp_path / "run", tmp_path) as run,
        pytest.raises(errors.StateMismatchError, match=r"circle\.0 contains itself"),
    ):
        run.restore(into={"circle": circle})


def test_object_that_only_gives_its_state_takes_none(tmp_path: Path) -> None:
    """The error names the missing method."""

    class Half:
        def state_dict(self) -> dict[str, int]:
            return {}

    with (
        open_run(tmp_path / "run", tmp_path) as run,
        pytest.raises(errors.StateMismatchError, match=r"half is a Half, which has a state_dict\(\) and no load_state"),
    ):
        run.restore(into={"half": Half()})


def test_misfit_names_the_checkpoint_and_what_else_can_be_done(tmp_path: Path) -> None:
    """The error names the checkpoint, another step to restore, and how to begin a new run."""
    with open_run(tmp_path / "run", tmp_path) as run:
        name = run.save({"model": torch.nn.Linear(2, 2)}, 7).name
        with pytest.raises(errors.StateMismatchError) as caught:
            run.restore(into={"model": torch.nn.Linear(2, 3)})
        said = str(caught.value)
        assert str(name) in said
        assert "model.weight is (3, 2), and was saved as (2, 2)" in said
        assert "restore(step=…) takes another step than 7" in said
        assert "a location of its own begins a new run" in said


def test_name_that_is_never_saved_is_logged_with_the_first_save(tmp_path: Path) -> None:
    """A name that restore() asked for and save() lacks is logged once."""
    with Warnings() as warnings, open_run(tmp_path / "run", tmp_path) as run:
        assert run.restore(into={"model": torch.zeros(1), "optim": torch.zeros(1)}) is None
        for step in (1, 2):
            run.save({"model": torch.zeros(1), "optimizer": torch.zeros(1)}, step)
    assert len(warnings) == 1
    assert "was given 'optim', and the state that is saved has 'model', 'optimizer'" in warnings[0]
