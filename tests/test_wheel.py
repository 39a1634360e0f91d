"""The wheel works in a clean environment: what a user installs, and nothing of this repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from shares import Share

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ("--constraint", str(ROOT / "constraints.txt"))


class Environment:
    """A new virtual environment, and a folder to work in that is not the repository's.

    Args:
        folder: where both are made.
    """

    def __init__(self, folder: Path) -> None:
        self._bin = folder / "env" / "bin"
        self._cwd = folder / "work"
        self._cwd.mkdir()
        subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)

    def install(self, *what: str) -> None:
        """Install it, in the versions that are tested."""
        told = self.run("python", "-m", "pip", "install", "--quiet", *CONSTRAINTS, *what)
        assert told.returncode == 0, told.stderr

    def run(self, command: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command of it."""
        inherited = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
        return subprocess.run(
            [str(self._bin / command), *arguments],
            cwd=self._cwd,
            env={**inherited, **environ},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.mark.long
def test_wheel_works_in_a_clean_environment(share: Share, tmp_path: Path) -> None:
    """Installed, shown, examined, and trained with."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(pip, check=True)
    (wheel,) = tmp_path.glob("ai4os_data-*.whl")
    environment = Environment(tmp_path)
    environment.install("torch")
    environment.install(f"{wheel}[demo]")

    demo = environment.run("ai4os-data", "demo")
    assert demo.returncode == 0, demo.stderr
    assert "100.0%" in demo.stdout

    doctor = environment.run("ai4os-data", "doctor", "rshare:", **share.environ())
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert "Training can read and write here." in doctor.stdout

    for name in ("quickstart.py", "storage.py"):
        shutil.copy(ROOT / "examples" / name, tmp_path / "work")
    quickstart = environment.run("python", "quickstart.py")
    assert quickstart.returncode == 0, quickstart.stderr
    assert "epoch 2: loss" in quickstart.stdout

    absent = environment.run("python", "-c", "import ai4os_data.lightning")
    assert "pip install 'ai4os-data[lightning]'" in absent.stderr
