"""The get command makes a copy, shows how far it is, and can be interrupted at any time."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from ai4os_data.cli.main import main
from ai4os_data.folders import progress
from tests.support.servers import WsgidavServer
from tests.support.shares import Share
from tests.support.tool import at_terminal, command, interrupt, tool

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = {f"class-{number % 3}/{number}.bin": os.urandom(1000 + number) for number in range(300)}
TOTAL = sum(map(len, FILES.values()))


@pytest.fixture
def birds(share: Share) -> Share:
    """A share with some files."""
    share.put({f"birds/{key}": data for key, data in FILES.items()})
    return share


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Share]:
    """The same on a server that waits before each answer, so that a copy takes seconds."""
    with WsgidavServer(tmp_path / "slow", latency_s=0.3) as server:
        share = Share(server)
        share.put({f"birds/{key}": data for key, data in FILES.items()})
        yield share


def location(share: Share) -> str:
    """What a user types."""
    return f"rshare:{share.name}/birds"


def content(directory: Path) -> dict[str, bytes]:
    """Each file below a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_get_copies_and_prints_the_directory_alone(birds: Share, tmp_path: Path) -> None:
    """The output is for ``$(…)``; the summary goes beside it, without any control character."""
    ended = tool("get", location(birds), "out", environ=birds.environ(), cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, f"{tmp_path / 'out'}\n")
    assert content(tmp_path / "out") == FILES
    assert ended.stderr.startswith("300 files, 337 KiB: 300 fetched (337 KiB, ")
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.isprintable() or ended.stderr.replace("\n", "").isprintable()


def test_get_without_a_directory_has_one_of_its_own(birds: Share) -> None:
    """Two calls print the same directory, and the second one fetches nothing."""
    first = tool("get", location(birds), "--quiet", environ=birds.environ())
    assert (first.returncode, first.stderr) == (0, "")
    again = tool("get", location(birds), "--json", "-q", environ=birds.environ())
    found = json.loads(again.stdout)
    assert (found["path"], found["files"], found["bytes"], found["fetched"]) == (first.stdout.strip(), 300, TOTAL, 0)
    assert content(Path(found["path"])) == FILES


def test_get_takes_patterns_a_remote_and_a_limit(birds: Share, tmp_path: Path) -> None:
    """Each option does what the argument of its name does; what goes wrong has an exit code of its own."""
    out, environ = tmp_path / "out", birds.environ()
    where = (f"{birds.name}/birds", out, "--remote", "rshare", "-q")
    assert tool("get", *where, "-p", "class-0/*", "--pattern", "*/1.bin", environ=environ).returncode == 0
    assert set(content(out)) == {key for key in FILES if key.startswith("class-0/") or key.endswith("/1.bin")}
    small = tool("get", *where, "--size-limit", "100KiB", environ=environ)
    assert small.returncode == 4
    assert "--size-limit is 100 KiB" in small.stderr
    assert tool("get", *where, "-p", "*.png", environ=environ).returncode == 3
    (out / "class-0/0.bin").write_bytes(b"mine")
    refused = tool("get", *where, environ=environ)
    assert refused.returncode == 5
    assert "--overwrite" in refused.stderr
    assert (out / "class-0/0.bin").read_bytes() == b"mine"
    assert tool("get", *where, "--overwrite", environ=environ).returncode == 0
    assert content(out) == FILES


def test_get_tells_which_files_changed_and_vanished(birds: Share, tmp_path: Path) -> None:
    """They are named beside the output, unless it is to be quiet."""
    out = tmp_path / "out"
    assert tool("get", location(birds), out, environ=birds.environ()).returncode == 0
    birds.put({"birds/class-0/0.bin": b"another"})
    birds.remove("birds/class-1/1.bin")
    ended = tool("get", location(birds), out, environ=birds.environ())
    assert ended.returncode == 0
    assert "'class-0/0.bin' changed" in ended.stderr
    assert "'class-1/1.bin' vanished" in ended.stderr
    assert "1 fetched" in ended.stderr
    assert "1 removed" in ended.stderr


@pytest.mark.parametrize(
    ("wrong", "code", "said"),
    [
        (["get", "nosuch:birds"], 1, "no remote is called 'nosuch'"),
        (["get", "rshare:nosuch/birds"], 3, "no such folder"),
        (["ls", "/nosuch/birds"], 3, "no such directory"),
        (["warm", "nosuch:birds"], 1, "no remote is called 'nosuch'"),
        (["checkpoints", "list", "rshare:nosuch"], 3, "no checkpoint here"),
        (["get", "rshare:{name}/birds", "/proc/nosuch"], 4, "0 KiB (0 bytes) are free"),
        (["get", "rshare:{name}/birds", "/dev/null"], 3, "/dev/null"),
    ],
)
def test_mistakes_are_one_line(birds: Share, wrong: list[str], code: int, said: str) -> None:
    """No traceback, unless it is asked for."""
    typed = [word.format(name=birds.name) for word in wrong]
    ended = tool(*typed, environ=birds.environ())
    assert (ended.returncode, ended.stdout) == (code, "")
    assert ended.stderr.startswith("ai4os-data: ")
    assert ended.stderr.count("\n") == 1
    assert said in ended.stderr
    debug = {**birds.environ(), "AI4OS_DATA_DEBUG": "1"}
    for asked in (tool(*typed, "--debug", environ=birds.environ()), tool(*typed, environ=debug)):
        assert asked.returncode == code
        assert "Traceback" in asked.stderr


def test_get_shrinks_photographs(share: Share, tmp_path: Path) -> None:
    """The longest side is the one that was asked for; other files come as they are."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "JPEG")
    share.put({"birds/a.jpg": picture.getvalue(), "birds/labels.txt": b"0"})
    ended = tool("get", location(share), tmp_path / "out", "--shrink", "64", environ=share.environ())
    assert ended.returncode == 0
    with Image.open(tmp_path / "out" / "a.jpg") as shrunk:
        assert shrunk.size == (64, 48)
    assert (tmp_path / "out" / "labels.txt").read_bytes() == b"0"


def test_a_full_disk_under_the_output_is_an_error(birds: Share, tmp_path: Path) -> None:
    """The copy is there; whoever asked for its directory has not got it."""
    with Path("/dev/full").open("w") as full:
        ended = tool("get", location(birds), tmp_path / "out", "-q", environ=birds.environ(), stdout=full)
    assert ended.returncode == 1
    assert ended.stderr == "ai4os-data: the output cannot be written: No space left on device\n"
    assert content(tmp_path / "out") == FILES


def test_a_server_that_is_away_has_an_exit_code(share: Share, tmp_path: Path) -> None:
    """What may work later can be told from what will not; a wrong password is the latter."""
    with WsgidavServer(tmp_path / "away") as server:
        away = Share(server)
        environ = away.environ()
    assert tool("ls", f"rshare:{away.name}", environ=environ).returncode == 6
    assert tool("ls", f"rshare:{share.name}", environ=share.environ(password="wrong")).returncode == 1


def test_a_terminal_shows_a_bar_with_rate_and_time_left(slow: Share, tmp_path: Path) -> None:
    """It fits a narrow terminal, has no colour, and leaves one line; the output is the directory."""
    ended = at_terminal("get", location(slow), "out", environ=slow.environ(), cwd=tmp_path, columns=70)
    assert (ended.returncode, ended.stdout) == (0, f"{tmp_path / 'out'}\n")
    frames = ended.screen.replace("\n", "\r").split("\r")
    bars = [frame for frame in frames if "%|" in frame]
    assert any("/s" in frame and "files" in frame and "<" in frame for frame in bars)
    assert max(map(len, bars)) <= 70
    assert "\x1b[3" not in ended.screen
    assert [frame for frame in frames if frame.strip()][-1].startswith("300 files, 337 KiB: 300 fetched")


def test_without_a_terminal_lines_are_printed_now_and_then(
    slow: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is a plain line with part, rate and time left."""
    monkeypatch.setattr(progress, "_LOG_EVERY_S", 0.5)
    for name, value in slow.environ().items():
        monkeypatch.setenv(name, value)
    assert main(["get", location(slow), str(tmp_path / "out")]) == 0
    *lines, last = capsys.readouterr().err.splitlines()
    assert last.startswith("300 files")
    assert len(lines) >= 2
    assert all(line.isprintable() and line.startswith("ai4os-data: get: ") for line in lines)
    assert all(" of 337 KiB (" in line and " of 300 files" in line for line in lines)
    assert lines[-1].endswith(" left")


@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_leaves_whole_files_and_the_same_command_goes_on(
    slow: Share,
    tmp_path: Path,
    terminal: bool,  # noqa: FBT001  a parameter of pytest
) -> None:
    """One line and exit code 130; nothing that is staged stays, and the next call fetches the rest alone."""
    out, environ = tmp_path / "out", slow.environ()

    def some() -> bool:
        return len([*out.glob("class-*/*")]) >= 20

    if terminal:
        ended = at_terminal("get", location(slow), out, environ=environ, interrupted_when=some)
        returncode, told = ended.returncode, ended.screen.replace("\r", "\n")
    else:
        process = subprocess.Popen(
            command("get", location(slow), out),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )
        interrupt(process, some)
        _, told = process.communicate(timeout=60)
        returncode = process.returncode
        assert told == "ai4os-data: interrupted\n"
    assert returncode == 130
    assert told.strip().endswith("ai4os-data: interrupted")
    assert "Traceback" not in told
    there = content(out)
    assert 20 <= len(there) < 300
    assert all(FILES[key] == data for key, data in there.items())
    rest = tool("get", location(slow), out, "--json", "-q", environ=environ)
    assert json.loads(rest.stdout)["fetched"] == 300 - len(there)
    assert content(out) == FILES
    assert {path.name for path in out.iterdir()} == {"class-0", "class-1", "class-2"}
