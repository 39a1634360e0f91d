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
    from tests.support.shares import Share

ROOT = Path(__file__).resolve().parents[1]
# Nothing of ours is imported: fsspec finds it by its entry point.
OPENED_BY_FSSPEC = """
import sys
import fsspec
with fsspec.open(sys.argv[1], "w") as file:
    file.write("whole or absent")
(found,) = fsspec.filesystem("ai4os").find(sys.argv[1].rpartition("/")[0])
with fsspec.open(sys.argv[1]) as file:
    print(found.removeprefix("rshare/"), file.read().decode())
"""
CONSTRAINTS = ("--constraint", str(ROOT / "constraints.txt"))


class Environment:
    """A new virtual environment, and a folder to work in that is not the repository's.

    Args:
        folder: where both are made.

    Attributes:
        cwd: the folder to work in.
    """

    def __init__(self, folder: Path) -> None:
        self._bin = folder / "env" / "bin"
        self.cwd = folder / "work"
        self.cwd.mkdir()
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
            cwd=self.cwd,
            env={**inherited, **environ},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is built from this repository."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(pip, check=True)
    (built,) = folder.glob("ai4os_data-*.whl")
    return built


@pytest.mark.long
def test_wheel_works_in_a_clean_environment(wheel: Path, share: Share, tmp_path: Path) -> None:
    """Without an extra it is examined, trained with and opened by fsspec; with one it is shown."""
    environment = Environment(tmp_path)
    environment.install("torch")
    environment.install(str(wheel))
    environ = share.environ()
    check_base(environment, share, environ)

    absent = environment.run("ai4os-data", "demo")
    assert absent.returncode == 1
    assert "pip install 'ai4os-data[demo]'" in absent.stderr
    # As that says: pip finds it installed, and adds what the extra needs.
    environment.install("ai4os-data[demo]")
    demo = environment.run("ai4os-data", "demo")
    assert demo.returncode == 0, demo.stderr
    assert "100.0%" in demo.stdout
    quickstart = environment.run("python", "quickstart.py")
    assert quickstart.returncode == 0, quickstart.stderr
    assert "epoch 2: loss" in quickstart.stdout


def check_base(environment: Environment, share: Share, environ: dict[str, str]) -> None:
    """What works with the library alone."""
    doctor = environment.run("ai4os-data", "doctor", "rshare:", **environ)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert "Training can read and write here." in doctor.stdout

    for name in ("quickstart.py", "storage.py"):
        shutil.copy(ROOT / "examples" / name, environment.cwd)
    quickstart = environment.run("python", "quickstart.py", f"rshare:{share.name}", **environ)
    assert quickstart.returncode == 0, quickstart.stderr
    assert "epoch 2: loss" in quickstart.stdout
    assert list(share.root.iterdir()) == []

    url = f"ai4os://rshare/{share.name}/notes.txt"
    written = environment.run("python", "-c", OPENED_BY_FSSPEC, url, **environ)
    assert (written.returncode, written.stdout) == (0, f"{share.name}/notes.txt whole or absent\n"), written.stderr
    assert (share.root / "notes.txt").read_text() == "whole or absent"

    absent = environment.run("python", "-c", "import ai4os_data.lightning")
    assert "pip install 'ai4os-data[lightning]'" in absent.stderr
