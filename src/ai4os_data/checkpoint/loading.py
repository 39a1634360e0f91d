"""A saved state put back into the objects that it came from, after a look at whether all of them fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn.parameter import is_lazy
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Sampler

from ai4os_data import errors
from ai4os_data.checkpoint.plan import unwrapped
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from ai4os_data.checkpoint.names import CheckpointName

_EXTRA_STATE = "_extra_state"  # what Module.get_extra_state returns is under this name, and of any form


class _Load(NamedTuple):
    """What is to be done once everything has been looked at."""

    place: str
    run: Callable[[], object]
    goes_first: bool = False


def check_into(into: Any) -> None:
    """Refuse what nothing can be loaded into, before anybody looks for a checkpoint: also where there is none yet.

    Raises:
        TypeError: it is no mapping.
        StateMismatchError: something in it takes no state.
    """
    if not isinstance(into, Mapping):
        raise TypeError(
            f"into has names, and this is a {type(into).__name__}: write restore(into={{'model': model}}), with the "
            "names that save() is given"
        )
    _check_targets(into, "", frozenset())


def _check_targets(target: Any, place: str, above: frozenset[int]) -> None:
    target = unwrapped(target)
    if not isinstance(target, type) and callable(getattr(target, "load_state_dict", None)):
        return
    if isinstance(target, (torch.Tensor, np.ndarray)):
        return
    if not isinstance(target, (Mapping, list, tuple)) or id(target) in above:
        raise errors.StateMismatchError(_takes_nothing(target, place, above))
    for key, item in target.items() if isinstance(target, Mapping) else enumerate(target):
        _check_targets(item, f"{place}.{key}" if place else str(key), above | {id(target)})


def _takes_nothing(target: Any, place: str, above: Iterable[int] = ()) -> str:
    """What to say of a target that nothing can be loaded into."""
    if id(target) in above:
        return f"{place} contains itself, so nothing can be loaded into it"
    if isinstance(target, type):
        return f"{place} is the class {target.__name__}: give an object of it"
    if callable(getattr(target, "state_dict", None)):
        return f"{place} is a {type(target).__name__}, which has a state_dict() and no load_state_dict(): give it one"
    kind = "None" if target is None else f"of the type {type(target).__name__}"
    code = f"; {place} = restored[{place!r}] if restored else …" if place.isidentifier() else ""
    return (
        f"{place} is {kind}, and nothing can be loaded into that: leave it out of into=, and take it from what "
        f"restore() returns, which is None on a new run{code}"
    )


def load_checkpoint(into: Mapping[str, Any], state: Mapping[str, Any], name: CheckpointName) -> None:
    """The same as `load_into`, for the state of a checkpoint; an error names it, and what else can be done.

    Raises:
        StateMismatchError: something does not fit.
    """
    try:
        load_into(into, state)
    except errors.StateMismatchError as error:
        raise errors.StateMismatchError(
            f"the checkpoint {name} does not fit: {error}. Build the objects as they were when it was saved; "
            f"restore(step=…) takes another step than {name.step}, and a location of its own begins a new run"
        ) from error


def load_into(into: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Load each object from what was saved under its key. Nothing is loaded unless every key fits.

    Whether it fits is found out beforehand for tensors, arrays, and torch's modules, optimizers, schedulers and
    scalers. Loaders and samplers are the first to be loaded, so that nothing else has been changed if one refuses. What
    some other object finds wrong comes when it is its turn, and the error tells what has been loaded until then.

    Args:
        into: objects with ``load_state_dict()``, tensors and arrays (which are filled), and mappings, lists and tuples
            of such.
        state: as it was saved; it may hold more.

    Raises:
        StateMismatchError: something does not fit.
    """
    loads = sorted(_of_mapping(into, state, ""), key=lambda load: not load.goes_first)
    left = sorted(str(key) for key, value in state.items() if key not in into and isinstance(value, Mapping))
    if left:
        log.info("the checkpoint also holds %s, for which into= has no entry", ", ".join(map(repr, left)))
    for number, load in enumerate(loads):
        try:
            load.run()
        except Exception as error:
            loaded = [before.place for before in loads[:number]]
            already = (
                f"{', '.join(loaded)} had been loaded before it" if loaded else "nothing had been loaded before it"
            )
            if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
                log.error("there is no memory to load %s; %s", load.place, already)
                raise
            raise errors.StateMismatchError(f"{load.place} cannot be loaded: {error}; {already}") from error


def _of_mapping(into: Mapping[Any, Any], state: Mapping[Any, Any], above: str) -> list[_Load]:
    missing = sorted(str(key) for key in into if key not in state)
    if missing:
        raise errors.StateMismatchError(
            f"the checkpoint holds no {', '.join(above + key for key in missing)}, but "
            f"{', '.join(sorted(above + str(key) for key in state)) or 'nothing'}"
        )
    return [load for key, target in into.items() for load in _loads(target, state[key], f"{above}{key}")]


def _loads(target: Any, saved: Any, place: str) -> list[_Load]:
    """What has to be done for a target, or an error if it does not fit."""
    target = unwrapped(target)
    if callable(getattr(target, "load_state_dict", None)):
        _check_object(target, saved, place)
        return [_Load(place, lambda: target.load_state_dict(saved), isinstance(target, (DataLoader, Sampler)))]
    if isinstance(target, torch.Tensor):
        _check_tensor(target, saved, place)
        return [_Load(place, lambda: _fill(target, saved))]
    if isinstance(target, np.ndarray):
        _check_array(target, saved, place)
        return [_Load(place, lambda: np.copyto(target, saved, casting="no"))]
    if isinstance(target, Mapping) and isinstance(saved, Mapping):
        return _of_mapping(target, saved, f"{place}.")
    if isinstance(target, (list, tuple)) and isinstance(saved, (list, tuple)):
        if len(target) != len(saved):
            raise errors.StateMismatchError(f"{place} has {len(target)} items, and was saved with {len(saved)}")
        pairs = enumerate(zip(target, saved, strict=True))
        return [load for number, pair in pairs for load in _loads(*pair, f"{place}.{number}")]
    if isinstance(target, (Mapping, list, tuple)):
        raise errors.StateMismatchError(f"{place} is a {type(target).__name__}, and was saved as {_described(saved)}")
    raise errors.StateMismatchError(_takes_nothing(target, place))


def _check_tensor(target: torch.Tensor, saved: Any, place: str) -> None:
    if not isinstance(saved, torch.Tensor) or saved.shape != target.shape:
        raise errors.StateMismatchError(
            f"{place} is a tensor of {tuple(target.shape)}, and was saved as {_described(saved)}"
        )
    if saved.dtype != target.dtype:
        raise errors.StateMismatchError(
            f"{place} is {target.dtype}, and was saved as {saved.dtype}: make it of that, or take what was saved from "
            "what restore() returns"
        )
    if target.device.type == "meta":
        raise errors.StateMismatchError(f"{place} is on the meta device, where it can hold no values")


def _check_array(target: np.ndarray[Any, Any], saved: Any, place: str) -> None:
    if not isinstance(saved, np.ndarray) or (saved.shape, saved.dtype) != (target.shape, target.dtype):
        raise errors.StateMismatchError(
            f"{place} is an array of {target.shape} and {target.dtype}, and was saved as {_described(saved)}"
        )
    if not target.flags.writeable:
        raise errors.StateMismatchError(f"{place} is an array that may not be written to")


def _check_object(target: Any, saved: Any, place: str) -> None:
    """Find out before anything is changed what `load_state_dict` would find half-way, or never."""
    checks: tuple[tuple[type, Callable[[Any, Mapping[Any, Any]], Iterable[str]]], ...] = (
        (torch.nn.Module, _wrong_with_module),
        (torch.optim.Optimizer, _wrong_with_optimizer),
        (LRScheduler, _wrong_with_scheduler),
        (torch.amp.GradScaler, _wrong_with_scaler),
    )
    for kind, wrong_with in checks:
        if isinstance(target, kind):
            if not isinstance(saved, Mapping):
                raise errors.StateMismatchError(f"{place} was saved as {_described(saved)}, not as a state_dict")
            if wrong := list(wrong_with(target, saved)):
                raise errors.StateMismatchError("; ".join(f"{place}{each}" for each in wrong[:8]))


def _wrong_with_module(module: torch.nn.Module, saved: Mapping[Any, Any]) -> Iterable[str]:
    if type(module).load_state_dict is not torch.nn.Module.load_state_dict:
        return  # what fits is for it to say
    free = tuple(f"{name}." if name else "" for name, part in module.named_modules() if _has_rules_of_its_own(part))
    own = {name: value for name, value in module.state_dict().items() if not name.startswith(free)}
    there = {name: value for name, value in saved.items() if not str(name).startswith(free)}
    for name, value in own.items():
        if isinstance(value, torch.Tensor) and not is_lazy(value) and value.device.type == "meta":
            yield f".{name} is on the meta device: give it memory with to_empty() first"
        elif name in there and not _has_form_of(value, there[name]) and name.rpartition(".")[2] != _EXTRA_STATE:
            yield f".{name} is {tuple(value.shape)}, and was saved as {_described(there[name])}"
    yield from (f".{name} was not saved" for name in own if name not in there)
    yield from (f".{name} was saved, and is not there" for name in there if name not in own)


def _has_rules_of_its_own(module: torch.nn.Module) -> bool:
    """Whether a module may take a state of another form, of an older version say, so that only it can tell."""
    hooks = ("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")
    is_torchs = type(module)._load_from_state_dict.__module__.startswith("torch.nn.")  # noqa: SLF001  torch's way in
    return not is_torchs or any(getattr(module, name, None) for name in hooks)


def _has_form_of(own: Any, saved: Any) -> bool:
    """Whether a tensor can be copied into one of a module; its type may be another, as `load_state_dict` has it."""
    if not isinstance(own, torch.Tensor) or is_lazy(own):
        return True
    return isinstance(saved, torch.Tensor) and own.shape == saved.shape


def _wrong_with_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[Any, Any]) -> Iterable[str]:
    is_torchs = type(optimizer).load_state_dict is torch.optim.Optimizer.load_state_dict
    if not is_torchs or getattr(optimizer, "_optimizer_load_state_dict_pre_hooks", None):
        return
    if "param_groups" not in saved:
        yield f" was saved with {', '.join(map(str, saved)) or 'nothing'}, which is no state of an optimizer"
        return
    own_sizes = [len(group["params"]) for group in optimizer.param_groups]
    sizes = [len(group["params"]) for group in saved["param_groups"]]
    if own_sizes != sizes:
        yield f" has groups of {own_sizes} parameters, and was saved with groups of {sizes}"


def _wrong_with_scheduler(scheduler: LRScheduler, saved: Mapping[Any, Any]) -> Iterable[str]:
    return _wrong_with_schedule(scheduler.state_dict(), saved)


def _wrong_with_schedule(own: Mapping[Any, Any], saved: Mapping[Any, Any]) -> Iterable[str]:
    """What is wrong with the state of a scheduler, which itself takes anything."""
    # Other versions of torch have other private names.
    lacking = sorted(name for name in own if not name.startswith("_") and name not in saved)
    if lacking:
        yield f" was saved without {', '.join(lacking)}, by another kind of scheduler"
    for name in ("base_lrs", "_schedulers"):
        if name in own and name in saved and len(own[name]) != len(saved[name]):
            yield f" has {len(own[name])} {name}, and was saved with {len(saved[name])}"
    for number, pair in enumerate(zip(own.get("_schedulers", ()), saved.get("_schedulers", ()), strict=False)):
        yield from (f"._schedulers.{number}{each}" for each in _wrong_with_schedule(*pair))


def _wrong_with_scaler(scaler: torch.amp.GradScaler, saved: Mapping[Any, Any]) -> Iterable[str]:
    if scaler.is_enabled() and not saved:
        yield " is enabled, and was disabled when it was saved"


def _fill(target: torch.Tensor, saved: torch.Tensor) -> None:
    with torch.no_grad():
        target.copy_(saved)


def _described(saved: Any) -> str:
    if isinstance(saved, torch.Tensor):
        return str(tuple(saved.shape))
    if isinstance(saved, np.ndarray):
        return f"one of {saved.shape} and {saved.dtype}"
    return f"a {type(saved).__name__}"
