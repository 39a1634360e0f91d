"""The examples do what their descriptions say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.servers.rclone import find_rclone

if TYPE_CHECKING:
    from tests.support.shares import Share

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PATHS = ["200 files came\ntrained on 200 images", "\n10 files came\ntrained on 210 images", "100% are recognised"]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(name: str, *arguments: str, scratch: Path, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run an example as a user does, with its temporary files in ``scratch``."""
    return subprocess.run(
        [sys.executable, *launcher, str(EXAMPLES / name), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"},
    )


def test_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    """The example runs on a server of its own, and leaves nothing behind."""
    answer = run("train_and_survive.py", "--kills", "1", scratch=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "killed with SIGKILL" in answer.stdout
    assert answer.stdout.endswith("The weights are the same, bit for bit.\n")
    assert left_in(tmp_path) == []


def test_example_runs_on_a_storage_of_the_user(tmp_path: Path) -> None:
    """Given a location, the example leaves its two runs there and names them."""
    answer = run("train_and_survive.py", str(tmp_path / "runs"), "--kills", "1", scratch=tmp_path)
    assert answer.returncode == 0, answer.stderr
    runs = sorted(map(str, (tmp_path / "runs").iterdir()))
    assert [Path(run).name.partition("-")[0] for run in runs] == ["killed", "undisturbed"]
    assert f"remove them when you have seen them: {runs[1]} {runs[0]}" in answer.stdout


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "storage.py"))
def test_help_is_no_location(name: str, tmp_path: Path) -> None:
    """`--help` prints the description, and nothing else happens."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    answer = run(name, "--help", scratch=scratch)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith(f"usage: {name} [-h]")
    assert f"python examples/{name}" in answer.stdout or f"torchrun --nproc-per-node 2 examples/{name}" in answer.stdout
    assert left_in(scratch) == []


def run_without_extras(*arguments: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    """Run the quickstart where the library alone is installed."""
    code = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(('cheroot', 'lightning', 'sklearn', 'wsgidav')));"
        f"sys.argv = ['quickstart.py', *sys.argv[1:]]; sys.path.insert(0, {str(EXAMPLES)!r});"
        f"runpy.run_path({str(EXAMPLES / 'quickstart.py')!r}, run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"},
    )


def test_own_storage_needs_no_extra(share: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage is as before afterwards, although the example made its folder."""
    for name, value in share.environ().items():
        monkeypatch.setenv(name, value)
    answer = run_without_extras(f"rshare:{share.name}/new/deep/", scratch=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "epoch 2: loss" in answer.stdout
    assert list(share.root.iterdir()) == []


def test_server_of_its_own_needs_an_extra(tmp_path: Path) -> None:
    """The message names the extra and the other way, and there is no traceback."""
    answer = run_without_extras(scratch=tmp_path)
    assert answer.returncode == 1
    assert "pip install 'ai4os-data[demo]'" in answer.stderr
    assert "rshare:somewhere" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("name", "expected", "where"),
    [
        ("quickstart.py", ["epoch 2: loss"], "server"),
        ("pandas_zarr.py", ["is half a table there? False"], "server"),
        ("pandas_zarr.py", ["is half a table there? False"], "directory"),
        ("yolo_folder.py", ["24 images, 36 boxes, 36 of them on something bright"], "directory"),
        ("segmentation_masks.py", ["overlap with the masks"], "server"),
        ("path_training.py", PATHS, "server"),
        ("path_training.py", PATHS, "directory"),
        ("lightning_training.py", ["ended at step 40,", "begun at step 40, ended at step 128"], "server"),
        ("lightning_training.py", ["ended at step 40,", "begun at step 40, ended at step 128"], "directory"),
    ],
)
def test_example_does_what_it_says_and_leaves_nothing(
    name: str, expected: list[str], where: str, tmp_path: Path
) -> None:
    """Each example runs on a server of its own and on a storage of the user."""
    check(name, expected, where, tmp_path)


def test_training_on_a_path_runs_with_the_line_as_it_was(
    share: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--before`, rclone copies; the training is the same, and the storage is as before afterwards."""
    for name, value in share.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{Path(find_rclone()).parent}:{os.environ['PATH']}")
    answer = run("path_training.py", f"rshare:{share.name}/new", "--before", scratch=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("100% are recognised") == 2
    assert list(share.root.iterdir()) == []
    refused = run("path_training.py", "--before", scratch=tmp_path)
    assert refused.returncode == 2
    assert "--before needs a location" in refused.stderr


@pytest.mark.parametrize("where", ["server", "directory"])
def test_two_processes_do_what_the_example_says_and_leave_nothing(where: str, tmp_path: Path) -> None:
    """The example runs under torchrun."""
    expected = [
        "epoch 0: 256 of 256 samples came to exactly one rank",
        "epoch 1: 256 of 256 samples came to exactly one rank",
        "256 files were fetched by both together; each took 16 steps an epoch",
    ]
    check("ddp.py", expected, where, tmp_path, launcher=TORCHRUN)


def test_ddp_says_how_to_start_it(tmp_path: Path) -> None:
    """Without ranks, the message names the command."""
    answer = run("ddp.py", scratch=tmp_path)
    assert answer.returncode == 1
    assert "torchrun --nproc-per-node 2" in answer.stderr


def check(name: str, expected: list[str], where: str, tmp_path: Path, launcher: tuple[str, ...] = ()) -> None:
    """Run an example on a server of its own, or in a directory; neither has changed afterwards."""
    scratch, directory = tmp_path / "scratch", tmp_path / "storage"
    scratch.mkdir()
    directory.mkdir()
    arguments = [str(directory / "new" / "deep")] if where == "directory" else []
    answer = run(name, *arguments, scratch=scratch, launcher=launcher)
    assert answer.returncode == 0, answer.stderr
    for line in expected:
        assert line in answer.stdout
    assert left_in(scratch) == []
    assert list(directory.iterdir()) == []


def left_in(scratch: Path) -> list[str]:
    """The files that an example has left behind, except those of torch's inductor and of torchrun."""
    return [path.name for path in scratch.iterdir() if not path.name.startswith(("torchinductor_", "torchelastic_"))]
