"""The examples of Lightning and DDP do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(*command: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    """Run an example as a user does, with its temporary files in ``scratch``."""
    environ = {**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], check=False, capture_output=True, text=True, env=environ)


@pytest.mark.parametrize("place", ["a server of its own", "a folder"])
def test_lightning_goes_on_where_it_was_stopped(place: str, tmp_path: Path) -> None:
    """At the step after the last one, on whatever location is typed; nothing stays behind."""
    pytest.importorskip("lightning", reason="lightning is not installed")
    given = [str(tmp_path / "runs")] if place == "a folder" else []
    answer = run(str(EXAMPLES / "lightning_training.py"), *given, scratch=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "begun at step 40, ended at step 128" in answer.stdout
    assert [path.name for path in tmp_path.iterdir()] == (["runs"] if given else [])


def test_two_ranks_share_the_data_and_the_cache(tmp_path: Path) -> None:
    """Each sample comes to one of them, and each file is fetched once."""
    answer = run(*TORCHRUN, str(EXAMPLES / "ddp.py"), scratch=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "epoch 1: 256 of 256 samples came to exactly one rank" in answer.stdout
    assert "256 files were fetched by 2 ranks together; 32 steps each" in answer.stdout
