"""Variables of launchers, which say that this process is one of several before there is a process group.

Only certain signs count. See docs/decisions/2026-11-28-ranks-without-a-group.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch.distributed as dist

from ai4os_data import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

# Each pair is set in every process that is started, and nowhere else: by torchrun and accelerate; by mpirun of Open
# MPI, of MPICH and Intel, and of MVAPICH; by horovodrun; by jsrun of LSF; by Lightning and Fabric in the processes that
# they start from a script, which have no RANK.
_PAIRS = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("HOROVOD_RANK", "HOROVOD_SIZE"),
    ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),
    ("LOCAL_RANK", "WORLD_SIZE"),
)
_INTERACTIVE_JOBS = {"bash", "interactive"}


class Launched(NamedTuple):
    """A process among others.

    Attributes:
        rank: its number.
        size: how many there are.
        said: the variables that say so.
    """

    rank: int
    size: int
    said: str


def launched(environ: Mapping[str, str]) -> Launched | None:
    """This process among others that a launcher has started; None if that is not certain."""
    for rank_name, size_name in _PAIRS:
        rank, size = _number(environ, rank_name), _number(environ, size_name)
        if rank is not None and size is not None and size > 1:
            return Launched(rank, size, f"{rank_name}={rank} and {size_name}={size}")
    return _of_slurm(environ)


def _of_slurm(environ: Mapping[str, str]) -> Launched | None:
    """A task of `srun`; not a shell in an allocation, nor a batch script, which have the number of tasks as well."""
    rank, size = _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_STEP_NUM_TASKS")
    is_shell = environ.get("SLURM_JOB_NAME") in _INTERACTIVE_JOBS or "SLURM_PTY_PORT" in environ
    if rank is not None and size is not None and size > 1 and not is_shell:
        return Launched(rank, size, f"SLURM_PROCID={rank} and SLURM_STEP_NUM_TASKS={size}")
    tasks = _number(environ, "SLURM_NTASKS")
    if rank is not None and rank > 0 and tasks is not None and tasks > 1:  # a shell or a script is task 0
        return Launched(rank, tasks, f"SLURM_PROCID={rank} and SLURM_NTASKS={tasks}")
    return None


def _number(environ: Mapping[str, str], name: str) -> int | None:
    value = environ.get(name, "").strip()
    return int(value) if value.isascii() and value.isdigit() else None


def check_group(environ: Mapping[str, str]) -> None:
    """Make sure that processes which were started together have found each other: each would write for itself.

    Raises:
        CheckpointError: they have not.
    """
    if dist.is_available() and dist.is_initialized():
        return  # the group says what there is
    if (found := launched(environ)) is not None:
        raise errors.CheckpointError(
            f"this is process {found.rank} of {found.size} ({found.said}), and there is no process group: each would "
            "save a run of its own at one place. Call torch.distributed.init_process_group() before "
            "StorageCheckpoint (with accelerate or Fabric: make the Accelerator or launch first). A process that is "
            "to save by itself, at a place of its own, says StorageCheckpoint(…, alone=True)"
        )
