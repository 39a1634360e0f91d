"""An answer of rank 0 for every rank, also before the process group is made."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import torch.distributed as dist

from ai4os_data import errors
from ai4os_data.checkpoint import RANK_TIMEOUT_S, Ranks
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable

_ANSWERS = "AI4OS_DATA_LIGHTNING_RESUME"  # by which rank 0 passes its answers to the processes that Lightning starts


def agreed(question: str, answer: Callable[[], str | None]) -> str | None:
    """The local path that rank 0 answers with, on every rank; None if it has none.

    Raises:
        StorageError: what rank 0 failed with, on every rank.
    """
    if _is_grouped():
        ranks = Ranks(RANK_TIMEOUT_S)
        return _opened(ranks.broadcast(_sealed(answer) if ranks.writes else None))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and int(os.environ["WORLD_SIZE"]) > 1:
        return _opened(_over_torchrun(question, answer))
    answers: dict[str, str] = json.loads(os.environ.get(_ANSWERS, "{}"))
    if int(os.environ.get("LOCAL_RANK", "0")) == 0 or question not in answers:
        answers[question] = _sealed(answer)
        os.environ[_ANSWERS] = json.dumps(answers)  # Lightning starts the other ranks from this process
    return _opened(answers[question])


def has_others() -> bool:
    """Whether this process is one of several, also before the process group is made."""
    return _is_grouped() or int(os.environ.get("WORLD_SIZE", "1")) > 1


def _is_grouped() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _over_torchrun(question: str, answer: Callable[[], str | None]) -> str:
    """The answer of rank 0 by way of the store of torchrun, if no process group is made yet."""
    store = dist.TCPStore(  # type: ignore[attr-defined]  # it is documented, and not in __all__
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
    )
    rank, attempt = os.environ["RANK"], os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    asked = store.add(f"ai4os-data/{attempt}/{rank}/{question}", 1)  # all ranks ask the same number of times
    key = f"ai4os-data/{attempt}/{question}/{asked}"
    if rank == "0":
        store.set(key, _sealed(answer))
    return bytes(store.get(key)).decode()


def _sealed(answer: Callable[[], str | None]) -> str:
    """An answer as text; an error too, so that the other ranks raise it."""
    try:
        return json.dumps({"path": answer()})
    except errors.StorageError as error:
        if not has_others():
            raise
        log.error("%s", error)
        return json.dumps({"error": str(error), "damaged": isinstance(error, errors.DamagedError)})


def _opened(sealed: str) -> str | None:
    answer = json.loads(sealed)
    if "error" in answer:
        raise (errors.DamagedError if answer["damaged"] else errors.CheckpointError)(answer["error"])
    path: str | None = answer["path"]
    if path is not None and not os.path.exists(path):
        raise errors.CheckpointError(f"{path} is on the machine of rank 0, and not here: put TMPDIR on a shared disk")
    return path
