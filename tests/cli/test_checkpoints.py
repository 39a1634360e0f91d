"""The checkpoints command looks at a run from outside: beside its training, after it, and after it was killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ai4os_data import StorageCheckpoint
from tests.support.servers import WsgidavServer
from tests.support.shares import Share
from tests.support.tool import command, interrupt, tool

METRICS = {10: {"val_loss": 0.5, "acc": 0.7}, 20: {"val_loss": 0.2, "acc": 0.8}, 30: {"val_loss": 0.3, "acc": 0.9}}


@pytest.fixture
def run(share: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Share:
    """A share with a run of three checkpoints."""
    monkeypatch.setenv("AI4OS_DATA_SPOOL", str(tmp_path / "spool"))
    with StorageCheckpoint(f"{share.location}/runs/x", remote=share.remote, keep_last=3) as run:
        for step, metrics in METRICS.items():
            run.save({"weights": torch.full((1000,), float(step))}, step, metrics).wait()
    share.server.forget()
    return share


def location(share: Share) -> str:
    """What a user types."""
    return f"rshare:{share.name}/runs/x"


def snapshot(*roots: Path) -> dict[Path, tuple[int, int]]:
    """Each file and folder, with its size and when it was changed."""
    paths = [path for root in roots for path in root.rglob("*")]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def state_of(share: Share, step: int) -> Path:
    """The file of a state on the server."""
    (file,) = share.root.glob(f"runs/x/*/step-{step:09d}-*/state-*.pt")
    return file


def test_list_shows_the_checkpoints_newest_first(run: Share) -> None:
    """With what is measured, where they are, and which is the latest and the best."""
    ended = tool("checkpoints", "list", location(run), "--monitor", "val_loss", environ=run.environ())
    assert ended.returncode == 0
    heading, *rows = ended.stdout.splitlines()
    assert heading.split() == ["step", "attempt", "saved", "size", "where", "notes", "metrics"]
    assert [row.split()[0] for row in rows] == ["30", "20", "10"]
    assert "storage  latest" in rows[0]
    assert "storage  best" in rows[1]
    assert "val_loss=0.2 acc=0.8" in rows[1]
    highest = tool(
        "checkpoints", "list", location(run), "--monitor", "acc", "--mode", "max", "--json", environ=run.environ()
    )
    lines = [json.loads(line) for line in highest.stdout.splitlines()]
    assert [line["step"] for line in lines if line["is_best"]] == [30]
    assert {line["step"]: line["metrics"] for line in lines} == METRICS
    assert all(line["on_storage"] and line["is_whole"] and line["saved"].endswith("Z") for line in lines)


def test_a_metric_that_says_nothing_is_a_mistake_of_the_command_line(run: Share) -> None:
    """The exit code is 2, and the message has the option to give."""
    unclear = tool("checkpoints", "list", location(run), "--monitor", "acc", environ=run.environ())
    assert (unclear.returncode, unclear.stdout) == (2, "")
    assert "--mode max" in unclear.stderr
    several = tool("checkpoints", "pull", location(run), "--best", environ=run.environ())
    assert several.returncode == 2
    assert "acc, val_loss" in several.stderr


def test_pull_gives_a_file_that_torch_loads(run: Share, tmp_path: Path) -> None:
    """The output is its path; a second call fetches nothing; nothing else lies beside it but the manifest."""
    first = tool("checkpoints", "pull", location(run), environ=run.environ(), cwd=tmp_path)
    assert first.returncode == 0
    assert "step 30 of attempt 1" in first.stderr
    file = tmp_path / first.stdout.strip()
    assert file.parent == tmp_path / "x-step-30"
    assert torch.load(file, weights_only=True)["state"]["weights"][0] == 30.0
    assert {path.name for path in file.parent.iterdir()} == {file.name, "MANIFEST.json"}
    run.server.forget()
    again = tool("checkpoints", "pull", location(run), "--json", "-q", environ=run.environ(), cwd=tmp_path)
    assert json.loads(again.stdout)["fetched"] == 0
    assert not any("state-" in request.path for request in run.requests("GET"))
    best = ("--best", "--monitor", "val_loss")
    pulled = tool("checkpoints", "pull", location(run), tmp_path / "best", *best, "-q", environ=run.environ())
    assert torch.load(pulled.stdout.strip(), weights_only=True)["state"]["weights"][0] == 20.0
    other = tool("checkpoints", "pull", location(run), tmp_path / "best", "--step", "10", environ=run.environ())
    assert other.returncode == 5
    assert "MANIFEST.json" in other.stderr
    missing = tool("checkpoints", "pull", location(run), "--step", "11", environ=run.environ())
    assert missing.returncode == 3
    assert "10, 20, 30" in missing.stderr


def test_damage_is_found_and_passed_over(run: Share, tmp_path: Path) -> None:
    """A flipped byte: `verify` exits with 1, the newest that is intact is pulled, and what was asked for is refused."""
    damaged = state_of(run, 30)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    ended = tool("checkpoints", "verify", location(run), environ=run.environ())
    assert ended.returncode == 1
    assert [line.split(",")[0] for line in ended.stdout.splitlines()] == [
        "FAIL  step 30",
        "  ok  step 20",
        "  ok  step 10",
    ]
    assert "1 damaged" in ended.stderr
    pulled = tool("checkpoints", "pull", location(run), tmp_path / "out", environ=run.environ())
    assert pulled.returncode == 0
    assert "step 30" in pulled.stderr
    assert torch.load(pulled.stdout.strip(), weights_only=True)["state"]["weights"][0] == 20.0
    refused = tool("checkpoints", "pull", location(run), tmp_path / "30", "--step", "30", environ=run.environ())
    assert (refused.returncode, refused.stdout) == (1, "")
    assert not (tmp_path / "30").exists()


def test_a_manifest_that_is_damaged_or_missing_is_named(run: Share) -> None:
    """The list has the others, and says which it has not."""
    (state_of(run, 20).parent / "MANIFEST.json").unlink()
    (state_of(run, 10).parent / "MANIFEST.json").write_bytes(b"{}")
    ended = tool("checkpoints", "list", location(run), environ=run.environ())
    assert ended.returncode == 0
    assert [row.split()[0] for row in ended.stdout.splitlines()[1:]] == ["30"]
    assert "its manifest is damaged" in ended.stderr
    assert "no manifest, since the upload goes on or was cut off" in ended.stderr
    assert tool("checkpoints", "verify", location(run), environ=run.environ()).returncode == 1


@pytest.mark.parametrize("action", ["list", "verify", "pull"])
def test_nothing_is_changed(run: Share, tmp_path: Path, action: str) -> None:
    """Neither on the storage nor in the spool, and nothing but reading is asked of the server."""
    out = [str(tmp_path / "out")] if action == "pull" else []
    before = snapshot(run.root, tmp_path / "spool")
    ended = tool("checkpoints", action, location(run), *out, environ=run.environ())
    assert ended.returncode == 0
    assert snapshot(run.root, tmp_path / "spool") == before
    assert {request.method for request in run.requests()} <= {"PROPFIND", "GET", "HEAD", "OPTIONS"}


def test_a_training_goes_on_beside_it(run: Share, tmp_path: Path) -> None:
    """What it saves meanwhile is of the same attempt, and arrives; what it has in its spool stays."""
    with StorageCheckpoint(f"{run.location}/runs/x", remote=run.remote, keep_last=3) as training:
        training.save({"weights": torch.full((1000,), 40.0)}, 40).wait()
        for action, *out in (["list"], ["verify"], ["pull", str(tmp_path / "out")]):
            assert tool("checkpoints", action, location(run), *out, environ=run.environ()).returncode == 0
        training.save({"weights": torch.full((1000,), 50.0)}, 50).wait()
        assert [(one.step, one.attempt) for one in training.list()][:2] == [(50, 2), (40, 2)]
    lines = tool("checkpoints", "list", location(run), "--json", environ=run.environ()).stdout.splitlines()
    assert [json.loads(line)["step"] for line in lines] == [50, 40, 30]


KILLED = """
import os, sys, torch
from ai4os_data import Remote, StorageCheckpoint
location, *remote = sys.argv[1:]
run = StorageCheckpoint(location, remote=Remote(*remote), keep_last=3)
run.save({"weights": torch.full((1000,), 40.0)}, 40).wait("local")
sys.stdin.readline()  # the server goes now
run.save({"weights": torch.full((1000,), 60.0)}, 60).wait("local")
print("saved", flush=True)
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_training_has_left_is_shown_and_left(run: Share, tmp_path: Path) -> None:
    """It waits in the spool for the run's next start; no look sends it, or takes it over."""
    server = run.server
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, f"{run.location}/runs/x", server.url, server.user, server.password],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        while not [*run.root.glob("runs/x/*/step-000000040-*/MANIFEST.json")]:
            assert process.poll() is None
        with run.down():
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "saved\n"
            process.wait(timeout=60)
    before = snapshot(run.root, tmp_path / "spool")
    lines = tool("checkpoints", "list", location(run), "--json", environ=run.environ()).stdout.splitlines()
    found = {line["step"]: line for line in map(json.loads, lines)}
    assert (found[60]["on_storage"], found[60]["in_spool"], found[60]["is_latest"]) == (False, True, True)
    assert (found[40]["on_storage"], found[40]["is_latest"]) == (True, False)
    table = tool("checkpoints", "list", location(run), environ=run.environ()).stdout
    assert "spool only  latest" in table
    pulled = tool("checkpoints", "pull", location(run), tmp_path / "out", environ=run.environ())
    assert "step 60 is in the spool of this machine only" in pulled.stderr
    assert torch.load(pulled.stdout.strip(), weights_only=True)["state"]["weights"][0] == 40.0
    assert snapshot(run.root, tmp_path / "spool") == before
    with StorageCheckpoint(f"{run.location}/runs/x", remote=run.remote, keep_last=3) as training:
        restored = training.restore()
    assert restored is not None
    assert restored.step == 60


def test_a_folder_of_runs_is_told_from_a_run(run: Share) -> None:
    """The error names the runs in it."""
    ended = tool("checkpoints", "list", f"rshare:{run.name}/runs", environ=run.environ())
    assert ended.returncode == 3
    assert "'x'" in ended.stderr


def test_pull_leaves_nothing_of_what_a_killed_one_staged(run: Share, tmp_path: Path) -> None:
    """A folder that nobody has locked goes; a file of somebody else stays, and is not written over."""
    out = tmp_path / "out"
    (out / ".ai4os-data-pull-dead").mkdir(parents=True)
    (out / ".ai4os-data-pull-dead" / "state").write_bytes(b"half")
    (out / "notes.txt").write_bytes(b"mine")
    ended = tool("checkpoints", "pull", location(run), out, environ=run.environ())
    assert ended.returncode == 0
    assert {path.name for path in out.iterdir()} == {Path(ended.stdout.strip()).name, "MANIFEST.json", "notes.txt"}


def test_pull_that_is_interrupted_leaves_nothing_and_goes_on(run: Share, tmp_path: Path) -> None:
    """One line and exit code 130; the directory is gone again if it was new."""
    with WsgidavServer(run.server.root, latency_s=0.7) as server:
        slow = Share(server)
        slow.name = run.name
        environ, out = slow.environ(), tmp_path / "out"
        typed = ("checkpoints", "pull", location(run), out, "-q")
        with subprocess.Popen(
            command(*typed), stderr=subprocess.PIPE, text=True, env={**os.environ, **environ}
        ) as process:
            interrupt(process, lambda: bool([*out.glob(".ai4os-data-pull-*")]))
            _, told = process.communicate(timeout=60)
        assert (process.returncode, told) == (130, "ai4os-data: interrupted\n")
        assert not out.exists()
        ended = tool(*typed, environ=environ)
    assert torch.load(ended.stdout.strip(), weights_only=True)["state"]["weights"][0] == 30.0
