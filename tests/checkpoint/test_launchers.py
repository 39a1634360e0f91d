"""Processes of a launcher without a process group are refused, so that they write no attempts side by side."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch.distributed as dist

from ai4os_data import errors
from ai4os_data.checkpoint.launchers import launched
from tests.support.runs import open_run, restored_step, save_steps

if TYPE_CHECKING:
    from pathlib import Path

CERTAIN = {
    "torchrun": {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "none"},
    "another rank": {"RANK": "1", "WORLD_SIZE": "2"},
    "mpirun": {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"},
    "mpiexec": {"PMI_RANK": "3", "PMI_SIZE": "4"},
    "srun": {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_NAME": "train"},
    "Lightning": {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
    "horovodrun": {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2"},
    "jsrun": {"JSM_NAMESPACE_RANK": "0", "JSM_NAMESPACE_SIZE": "2"},
    "another task of srun": {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
}

NOT_CERTAIN = {
    "nothing": {},
    "one process": {"RANK": "0", "WORLD_SIZE": "1"},
    "a size alone": {"WORLD_SIZE": "8"},
    "a rank alone": {"RANK": "0"},
    "a local rank alone": {"LOCAL_RANK": "1", "NODE_RANK": "0"},
    "no numbers": {"RANK": "first", "WORLD_SIZE": "two"},
    "sbatch": {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_NAME": "train"},
    "salloc": {"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "interactive"},
    "a shell of srun": {
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "8",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_PTY_PORT": "40001",
        "SLURM_JOB_NAME": "bash",
    },
}


@pytest.mark.parametrize("who", CERTAIN)
def test_process_among_others_is_refused_without_a_group(
    who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to do, and nothing was written; with alone=True the process saves."""
    for name, value in CERTAIN[who].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(errors.CheckpointError, match=r"init_process_group.*alone=True"):
        open_run(tmp_path / "run", tmp_path)
    assert list(tmp_path.iterdir()) == []
    with open_run(tmp_path / "run", tmp_path, alone=True) as run:
        save_steps(run, 1)
        assert restored_step(run) == 1


@pytest.mark.parametrize("who", NOT_CERTAIN)
def test_variables_that_are_no_proof_refuse_nobody(who: str) -> None:
    """A shell in a Slurm allocation has the number of tasks, and is one process."""
    assert launched(NOT_CERTAIN[who]) is None


def test_group_that_is_there_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process group decides, whatever the variables say."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        with open_run(tmp_path / "run", tmp_path) as run:
            save_steps(run, 1)
            assert restored_step(run) == 1
    finally:
        dist.destroy_process_group()


RANKS = """
import os, sys
import torch
import torch.distributed as dist
from ai4os_data import StorageCheckpoint

if "group" in sys.argv:
    dist.init_process_group("gloo")
run = StorageCheckpoint("run", spool="spool")
run.save({"weights": torch.ones(3)}, 1)
if "group" in sys.argv:
    dist.destroy_process_group()
"""


@pytest.mark.parametrize("has_group", [False, True], ids=["no group", "a group"])
def test_ranks_of_torchrun(has_group: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Without a group no rank writes; with one there is a single attempt, even without a close."""
    (tmp_path / "script.py").write_text(RANKS)
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "script.py"]
        + ["group"] * has_group,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    attempts = list(tmp_path.glob("run/*"))
    if has_group:
        assert ended.returncode == 0, ended.stderr
        with open_run(tmp_path / "run", tmp_path, "another machine") as run:
            assert [one.step for one in run.list()] == [1]
        assert len(attempts) == 1
    else:
        assert ended.returncode != 0
        assert "init_process_group" in ended.stderr
        assert attempts == []
