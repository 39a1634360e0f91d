"""The examples do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *arguments: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    """Run an example as a user does, with its temporary files in ``scratch``."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )


def test_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    """On a server of its own; nothing stays behind."""
    answer = run("train_and_survive.py", "--kills", "1", scratch=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "killed with SIGKILL" in answer.stdout
    assert answer.stdout.endswith("The weights are the same, bit for bit.\n")
    assert list(tmp_path.iterdir()) == []


def test_example_runs_on_a_storage_of_the_user(tmp_path: Path) -> None:
    """Whatever location is typed."""
    answer = run("train_and_survive.py", str(tmp_path / "runs"), "--kills", "1", scratch=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 2
