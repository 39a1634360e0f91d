"""The doctor says what is wrong and what to do, soon, and keeps secrets to itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ai4os_data.cli import doctor
from ai4os_data.cli.main import main
from servers import PASSWORD

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
