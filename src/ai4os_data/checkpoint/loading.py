"""Loads a saved state into the objects that it came from, once all of them were found to fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn.parameter import is_lazy
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Sampler

from ai4os_data import errors
from ai4os_data.checkpoint.walk import unwrapped
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from ai4os_data.checkpoint.names import CheckpointName

_EXTRA_STATE = "_extra_state"  # what Module.get_extra_state returns is under this name, and of any form
_LOOKED_AT = (torch.nn.Module, torch.optim.Optimizer, LRScheduler, torch.amp.GradScaler)
_MOST_WRONG = 8  # at most so many are named in an error
_UNKNOWN = object()  # in the place of a saved value, before a checkpoint was looked for


class _Load(NamedTuple):
    """A step that follows once everything was checked."""

    path: str
    run: Callable[[], object]
    goes_first: bool = False


def check_into(into: Any) -> None:
    """Refuse targets that nothing can be loaded into, before a checkpoint is looked for: so on a new run too.

    Raises:
        TypeError: it is no mapping.
        StateMismatchError: something in it takes no state.
    """
    if not isinstance(into, Mapping):
        raise TypeError(
            f"into has names, and this is a {type(into).__name__}: write restore(into={{'model': model}}), with the "
            "names that save() is given"
        )
    list(_loads(into, _UNKNOWN, ""))


def load_checkpoint(into: Mapping[str, Any], state: Mapping[str, Any], name: CheckpointName) -> None:
    """Like `load_into`, for the state of a checkpoint: an error names the checkpoint, and what to do.

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

    Tensors, arrays, and torch's modules, optimizers, schedulers and scalers are checked beforehand. Loaders and
    samplers are loaded first, so that nothing else has changed if one of them refuses. Any other object is checked only
    when it is loaded; its error says what has been loaded before it.

    Args:
        into: objects with ``load_state_dict()``, tensors and arrays (which are filled), and mappings, lists and tuples
            of such.
        state: as it was saved; it may hold more.

    Raises:
        StateMismatchError: something does not fit.
    """
    loads = sorted(_loads(into, state, ""), key=lambda load: not load.goes_first)
    left = sorted(str(key) for key, value in state.items() if key not in into and isinstance(value, Mapping))
    if left:
        log.info("the checkpoint also holds %s, for which into= has no entry", ", ".join(map(repr, left)))
    for number, load in enumerate(loads):
        try:
            load.run()
        except Exception as error:
            loaded = ", ".join(before.path for before in loads[:number]) or "nothing"
            already = f"{loaded} had been loaded before it"
            if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
                log.error("there is no memory to load %s; %s", load.path, already)
                raise
            raise errors.StateMismatchError(f"{load.path} cannot be loaded: {error}; {already}") from error


def _loads(target: Any, saved: Any, path: str, above: frozenset[int] = frozenset()) -> Iterator[_Load]:
    """The loading steps of a target; an error if it does not fit what was saved."""
    target = unwrapped(target)
    is_known = saved is not _UNKNOWN
    wrong: Iterable[str] = ()
    if not isinstance(target, type) and callable(getattr(target, "load_state_dict", None)):
        wrong = _wrong_with_object(target, saved) if is_known else ()
        yield _Load(path, lambda: target.load_state_dict(saved), isinstance(target, (DataLoader, Sampler)))
    elif isinstance(target, torch.Tensor):
        wrong = _wrong_with_tensor(target, saved) if is_known else ()
        yield _Load(path, lambda: _fill(target, saved))
    elif isinstance(target, np.ndarray):
        wrong = _wrong_with_array(target, saved) if is_known else ()
        yield _Load(path, lambda: np.copyto(target, saved, casting="no"))
    elif isinstance(target, (Mapping, list, tuple)) and id(target) not in above:
        for key, item in _items(target, saved, path):
            yield from _loads(target[key], item, f"{path}.{key}" if path else str(key), above | {id(target)})
    else:
        wrong = (_takes_nothing(target, path, above),)
    if found := [*islice(wrong, _MOST_WRONG)]:
        raise errors.StateMismatchError("; ".join(f"{path}{each}" for each in found))


def _items(target: Any, saved: Any, path: str) -> Iterator[tuple[Any, Any]]:
    """The keys or indices of a container, each with what was saved there."""
    keys = [*target] if isinstance(target, Mapping) else [*range(len(target))]
    if saved is _UNKNOWN:
        return ((key, saved) for key in keys)
    if not isinstance(saved, Mapping if isinstance(target, Mapping) else (list, tuple)):
        raise errors.StateMismatchError(f"{path} is a {type(target).__name__}, and was saved as {_described(saved)}")
    if isinstance(target, Mapping):
        prefix = f"{path}." if path else ""
        if missing := sorted(prefix + str(key) for key in keys if key not in saved):
            there = ", ".join(sorted(prefix + str(key) for key in saved)) or "nothing"
            raise errors.StateMismatchError(f"the checkpoint holds no {', '.join(missing)}, but {there}")
    elif len(target) != len(saved):
        raise errors.StateMismatchError(f"{path} has {len(target)} items, and was saved with {len(saved)}")
    return ((key, saved[key]) for key in keys)


def _takes_nothing(target: Any, path: str, above: frozenset[int]) -> str:
    """The words for what is wrong with a target that nothing can be loaded into."""
    if id(target) in above:
        return " contains itself, so nothing can be loaded into it"
    if isinstance(target, type):
        return f" is the class {target.__name__}: give an object of it"
    if callable(getattr(target, "state_dict", None)):
        return f" is a {type(target).__name__}, which has a state_dict() and no load_state_dict(): give it one"
    kind = "None" if target is None else f"of the type {type(target).__name__}"
    code = f"; {path} = restored[{path!r}] if restored else …" if path.isidentifier() else ""
    return (
        f" is {kind}, and nothing can be loaded into that: leave it out of into=, and take it from what restore() "
        f"returns, which is None on a new run{code}"
    )


def _wrong_with_tensor(target: torch.Tensor, saved: Any) -> Iterator[str]:
    if not isinstance(saved, torch.Tensor) or saved.shape != target.shape:
        yield f" is a tensor of {tuple(target.shape)}, and was saved as {_described(saved)}"
    elif saved.dtype != target.dtype:
        yield (
            f" is {target.dtype}, and was saved as {saved.dtype}: make it of that, or take what was saved from what "
            "restore() returns"
        )
    elif target.device.type == "meta":
        yield " is on the meta device, where it can hold no values"


def _wrong_with_array(target: np.ndarray[Any, Any], saved: Any) -> Iterator[str]:
    if not isinstance(saved, np.ndarray) or (saved.shape, saved.dtype) != (target.shape, target.dtype):
        yield f" is an array of {target.shape} and {target.dtype}, and was saved as {_described(saved)}"
    elif not target.flags.writeable:
        yield " is an array that may not be written to"


def _wrong_with_object(target: Any, saved: Any) -> Iterator[str]:
    """Mismatches that `load_state_dict` would find halfway, or never."""
    if not isinstance(target, _LOOKED_AT):
        return
    if not isinstance(saved, Mapping):
        yield f" was saved as {_described(saved)}, not as a state_dict"
    elif isinstance(target, torch.nn.Module):
        yield from _wrong_with_module(target, saved)
    elif isinstance(target, torch.optim.Optimizer):
        yield from _wrong_with_optimizer(target, saved)
    elif isinstance(target, LRScheduler):
        yield from _wrong_with_schedule(target.state_dict(), saved)
    elif target.is_enabled() and not saved:
        yield " is enabled, and was disabled when it was saved"


def _wrong_with_module(module: torch.nn.Module, saved: Mapping[Any, Any]) -> Iterator[str]:
    if type(module).load_state_dict is not torch.nn.Module.load_state_dict:
        return  # the object itself knows what fits
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
    """Whether a module may take a state of another form, such as of an older version: then only it can check."""
    hooks = ("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")
    is_torchs = type(module)._load_from_state_dict.__module__.startswith("torch.nn.")  # noqa: SLF001  torch's way in
    return not is_torchs or any(getattr(module, name, None) for name in hooks)


def _has_form_of(own: Any, saved: Any) -> bool:
    """Whether a tensor can be copied into one of a module; the types may differ, as in `load_state_dict`."""
    if not isinstance(own, torch.Tensor) or is_lazy(own):
        return True
    return isinstance(saved, torch.Tensor) and own.shape == saved.shape


def _wrong_with_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[Any, Any]) -> Iterator[str]:
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


def _wrong_with_schedule(own: Mapping[Any, Any], saved: Mapping[Any, Any]) -> Iterator[str]:
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


def _fill(target: torch.Tensor, saved: torch.Tensor) -> None:
    with torch.no_grad():
        target.copy_(saved)


def _described(saved: Any) -> str:
    if isinstance(saved, torch.Tensor):
        return str(tuple(saved.shape))
    if isinstance(saved, np.ndarray):
        return f"one of {saved.shape} and {saved.dtype}"
    return f"a {type(saved).__name__}"
