"""The doctor says what is wrong and what to do, soon, and keeps secrets to itself."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import pytest

from ai4os_data.cli import doctor
from ai4os_data.cli.main import main
from ai4os_data.cli.visits import visiting
from ai4os_data.stores import open_store
from servers import PASSWORD
from shares import Folder

if TYPE_CHECKING:
    from pathlib import Path

    from servers import RcloneMount
    from shares import Share


@pytest.fixture
def options(tmp_path: Path) -> doctor.Options:
    """A machine where nothing is mounted, and little time."""
    table = tmp_path / "mounts"
    table.write_text("/dev/sda1 / ext4 rw 0 0\n")
    return doctor.Options(deadline_s=4.0, storage=str(tmp_path / "storage"), table=table)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty folder on this disk."""
    return Folder(tmp_path / "folder")


def states(options: doctor.Options, environ: dict[str, str]) -> dict[str, str]:
    """What is found, by what it is about."""
    findings = list(doctor.examine(options, environ))
    assert PASSWORD not in "".join(map(str, findings))
    assert all(finding.advice for finding in findings if finding.state != "good")
    return {finding.what: finding.state for finding in findings}


def test_all_is_well_and_nothing_stays_behind(share: Share, options: doctor.Options) -> None:
    """On a plain server: all is good but the mount, which is not there."""
    before = {path.name for path in share.server.root.iterdir()}
    found = states(options, share.environ())
    assert found.pop("mounted") == "fair"
    found.pop("local disk")
    assert found == dict.fromkeys(("linked", "credentials", "server", "round trip", "quota", "write, read"), "good")
    assert {path.name for path in share.server.root.iterdir()} == before
    assert len(share.server.requests()) <= 20


def test_nextcloud_tells_its_version(cloud_share: Share, options: doctor.Options) -> None:
    """What it can do follows from that."""
    findings = list(doctor.examine(options, cloud_share.environ()))
    (server,) = [finding for finding in findings if finding.what == "server"]
    assert "Nextcloud" in server.told


def test_wrong_password_is_told_by_one_line_and_one_request(share: Share, options: doctor.Options) -> None:
    """It fails, says what to do, and does not go on knocking."""
    found = states(options, share.environ(password="wrong"))
    assert found["credentials"] == "bad"
    assert "write, read" not in found
    assert [request.status for request in share.server.requests()] == [401]


def test_dead_server_is_told_soon(share: Share, options: doctor.Options) -> None:
    """Nobody answers: that is said within the deadline."""
    begun = time.monotonic()
    with share.down():
        assert states(options, share.environ())["server"] == "bad"
    assert time.monotonic() - begun < 10


def test_unreachable_server_is_told_within_the_deadline(options: doctor.Options) -> None:
    """An address from which nothing comes back."""
    begun = time.monotonic()
    environ = {
        "RCLONE_CONFIG_RSHARE_TYPE": "webdav",
        "RCLONE_CONFIG_RSHARE_URL": "http://192.0.2.1/",  # TEST-NET-1: packets vanish (RFC 5737)
        "RCLONE_CONFIG": "/dev/null",
    }
    assert states(options, environ)["server"] == "bad"
    assert time.monotonic() - begun < 15


def test_no_storage(options: doctor.Options) -> None:
    """Nothing is linked: that is the finding, and there is a way out."""
    assert states(options, {"RCLONE_CONFIG": "/dev/null", "RCLONE_CONFIG_RSHARE_URL": ""})["linked"] == "bad"


def test_plain_directory_is_no_storage(options: doctor.Options, tmp_path: Path) -> None:
    """What is written there is lost."""
    (tmp_path / "storage").mkdir()
    findings = list(doctor.examine(options, {"RCLONE_CONFIG": "/dev/null"}))
    (mounted,) = [finding for finding in findings if finding.what == "mounted"]
    assert mounted.state == "fair"
    assert "plain directory" in mounted.told


def test_mount_is_looked_at(mount: RcloneMount, cloud_share: Share) -> None:
    """A real mount of the storage: it answers, and shows what the server has."""
    name = "rshare"
    options = doctor.Options(deadline_s=10.0, storage=str(mount.path), writes=False)
    found = states(options, cloud_share.environ(name))
    assert found["mounted"] == "good"
    assert found["fresh"] in {"good", "fair"}  # other tests may have put something there less than five minutes ago


@pytest.mark.parametrize("name", ["share", "cloud_share"])
def test_folders_that_it_made_go_again(name: str, options: doctor.Options, request: pytest.FixtureRequest) -> None:
    """Those alone: an empty folder that was there stays."""
    share: Share = request.getfixturevalue(name)
    (share.root / "here before").mkdir()
    asked = dataclasses.replace(options, location=f"rshare:{share.name}/here before/new/deep")
    assert states(asked, share.environ())["write, read"] == "good"
    assert sorted(share.root.rglob("*")) == [share.root / "here before"]


def test_directories_that_it_made_go_again(options: doctor.Options, tmp_path: Path) -> None:
    """On this disk too."""
    (tmp_path / "here before").mkdir()
    asked = dataclasses.replace(options, location=str(tmp_path / "here before" / "new" / "deep"))
    assert states(asked, {})["write, read"] == "good"
    assert list((tmp_path / "here before").rglob("*")) == []


@pytest.mark.parametrize("name", ["share", "cloud_share", "folder"])
def test_what_somebody_else_puts_there_meanwhile_stays(name: str, request: pytest.FixtureRequest) -> None:
    """With the folders above it."""
    share: Folder = request.getfixturevalue(name)
    with visiting(open_store(f"{share.location}/new/deep/er", share.remote, create=True)):
        share.put({"new/deep/er/ours": b"", "new/theirs": b""})
        share.remove("new/deep/er/ours")
    assert sorted(share.root.rglob("*")) == [share.root / "new", share.root / "new" / "theirs"]


def test_missing_folder_is_not_made_to_be_looked_at(
    share: Share, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training could read nothing there; what was not tried is said, and not promised."""
    for name, value in share.environ().items():
        monkeypatch.setenv(name, value)
    assert main(["doctor", f"rshare:{share.name}/nosuch", "--read-only"]) == 1
    assert "FAIL  folder" in capsys.readouterr().out
    assert list(share.root.iterdir()) == []
    share.put({"one": b"", "folder/two": b""})
    assert main(["doctor", f"rshare:{share.name}", "--read-only"]) == 0
    told = capsys.readouterr().out
    assert "2 names at its top" in told
    assert "can read and write" not in told
    assert "Nothing was written" in told
    assert {request.method for request in share.requests()} == {"PROPFIND"}


def test_missing_directory_is_not_made_to_be_looked_at(options: doctor.Options, tmp_path: Path) -> None:
    """On this disk too."""
    asked = dataclasses.replace(options, location=str(tmp_path / "nosuch"), writes=False)
    assert states(asked, {})["linked"] == "bad"
    assert not (tmp_path / "nosuch").exists()


def test_command_line(share: Share, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code tells; the password is nowhere."""
    for name, value in share.environ().items():
        monkeypatch.setenv(name, value)
    assert main(["doctor", f"rshare:{share.name}", "--deadline-s", "5"]) == 0
    assert main(["doctor", f"rshare:{share.name}", "--deadline-s", "5", "--read-only"]) == 0
    assert main(["doctor", "nosuch:x"]) == 1
    told = capsys.readouterr()
    assert PASSWORD not in told.out + told.err
    assert list(share.root.iterdir()) == []
