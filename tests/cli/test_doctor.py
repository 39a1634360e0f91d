"""The doctor says what is wrong and what to do, soon, and keeps secrets to itself."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from ai4os_data.cli import doctor
from ai4os_data.cli.main import main
from ai4os_data.cli.probe import visiting
from ai4os_data.stores import open_store
from tests.support.crowd import wait_for
from tests.support.disks import ext4
from tests.support.servers import PASSWORD, FaultServer, RcloneMount, make_certificates, missing_fuse, need
from tests.support.servers.fault import BROKEN_XML, LOGIN_PAGE, Fault
from tests.support.servers.rclone import obscure
from tests.support.shares import Folder, Share

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.cli.finding import Finding
    from tests.nextcloud import NextcloudServer
    from tests.support.servers.base import Server


@pytest.fixture
def options(tmp_path: Path) -> doctor.Options:
    """A machine where nothing is mounted, and the deadline that users have: a loaded machine answers within it."""
    table = tmp_path / "mounts"
    table.write_text("/dev/sda1 / ext4 rw 0 0\n")
    return doctor.Options(storage=str(tmp_path / "storage"), table=table)


@pytest.fixture
def hurried(options: doctor.Options) -> doctor.Options:
    """The same, with little time."""
    return dataclasses.replace(options, deadline_s=4.0)


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
    """On a plain server everything is good, except for the mount, which is not there."""
    before = {path.name for path in share.server.root.iterdir()}
    found = states(options, share.environ())
    assert found.pop("mounted") == "fair"
    found.pop("cache")  # how much room this disk has is its own matter
    found.pop("spool")
    on_server = ("credentials", "server", "round trip", "quota", "folder", "write, read")
    assert found == dict.fromkeys(("linked", *on_server), "good")
    assert {path.name for path in share.server.root.iterdir()} == before
    assert len(share.server.requests()) <= 20


def test_nextcloud_tells_its_version(cloud_share: Share, options: doctor.Options) -> None:
    """The finding names the version, from which follows what the server can do."""
    findings = list(doctor.examine(options, cloud_share.environ()))
    (server,) = [finding for finding in findings if finding.what == "server"]
    assert "Nextcloud" in server.told


def test_wrong_password_is_told_by_one_line_and_one_request(share: Share, options: doctor.Options) -> None:
    """A wrong password fails, the advice says what to do, and no further request is sent."""
    found = states(options, share.environ(password="wrong"))
    assert found["credentials"] == "bad"
    assert "write, read" not in found
    assert [request.status for request in share.server.requests()] == [401]


def test_dead_server_is_told_soon(share: Share, hurried: doctor.Options) -> None:
    """A server that does not answer is reported within the deadline."""
    begun = time.monotonic()
    with share.down():
        assert states(hurried, share.environ())["server"] == "bad"
    assert time.monotonic() - begun < 10


def test_unreachable_server_is_told_within_the_deadline(hurried: doctor.Options) -> None:
    """An address from which no packet returns is reported within the deadline."""
    begun = time.monotonic()
    environ = {
        "RCLONE_CONFIG_RSHARE_TYPE": "webdav",
        "RCLONE_CONFIG_RSHARE_URL": "http://192.0.2.1/",  # TEST-NET-1: packets vanish (RFC 5737)
        "RCLONE_CONFIG": "/dev/null",
    }
    assert states(hurried, environ)["server"] == "bad"
    assert time.monotonic() - begun < 15


def test_no_storage(options: doctor.Options) -> None:
    """If nothing is linked, the finding says so, and what to do."""
    assert states(options, {"RCLONE_CONFIG": "/dev/null", "RCLONE_CONFIG_RSHARE_URL": ""})["linked"] == "bad"


def test_plain_directory_is_no_storage(options: doctor.Options, tmp_path: Path) -> None:
    """A plain directory at the mount point is named: what is written there is lost."""
    (tmp_path / "storage").mkdir()
    findings = list(doctor.examine(options, {"RCLONE_CONFIG": "/dev/null"}))
    (mounted,) = [finding for finding in findings if finding.what == "mounted"]
    assert mounted.state == "fair"
    assert "plain directory" in mounted.told


def test_mount_is_looked_at(mount: RcloneMount, cloud_share: Share) -> None:
    """A real mount of the storage: it answers, and shows what the server has."""
    name = "rshare"
    options = doctor.Options(storage=str(mount.path), writes=False)
    found = states(options, cloud_share.environ(name))
    assert found["mounted"] == "good"
    assert found["fresh"] in {"good", "fair"}  # other tests may have put something there less than five minutes ago


@pytest.mark.parametrize("name", ["share", "cloud_share"])
def test_folders_that_it_made_go_again(name: str, options: doctor.Options, request: pytest.FixtureRequest) -> None:
    """Only folders that the doctor made are removed: an empty folder that was there stays."""
    share: Share = request.getfixturevalue(name)
    (share.root / "here before").mkdir()
    asked = dataclasses.replace(options, location=f"rshare:{share.name}/here before/new/deep")
    found = states(asked, share.environ())
    assert (found["write, read"], found["folder"]) == ("good", "fair")
    assert sorted(share.root.rglob("*")) == [share.root / "here before"]


def test_directories_that_it_made_go_again(options: doctor.Options, tmp_path: Path) -> None:
    """A directory on this disk behaves as a folder on a server."""
    (tmp_path / "here before").mkdir()
    asked = dataclasses.replace(options, location=str(tmp_path / "here before" / "new" / "deep"))
    found = states(asked, {})
    assert (found["write, read"], found["folder"]) == ("good", "fair")
    assert list((tmp_path / "here before").rglob("*")) == []


@pytest.mark.parametrize("name", ["share", "cloud_share", "folder"])
def test_what_somebody_else_puts_there_meanwhile_stays(name: str, request: pytest.FixtureRequest) -> None:
    """What somebody else has put there stays, with the folders above it."""
    share: Folder = request.getfixturevalue(name)
    with visiting(open_store(f"{share.location}/new/deep/er", share.remote, create=True)):
        share.put({"new/deep/er/ours": b"", "new/theirs": b""})
        share.remove("new/deep/er/ours")
    assert sorted(share.root.rglob("*")) == [share.root / "new", share.root / "new" / "theirs"]


def test_missing_folder_is_not_made_to_be_looked_at(
    share: Share, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training could read nothing there; the verdict promises only what was tried."""
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
    """A directory on this disk behaves as a folder on a server."""
    asked = dataclasses.replace(options, location=str(tmp_path / "nosuch"), writes=False)
    assert states(asked, {})["linked"] == "bad"
    assert not (tmp_path / "nosuch").exists()


def test_command_line(share: Share, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 1 if something fails; the password is never printed."""
    for name, value in share.environ().items():
        monkeypatch.setenv(name, value)
    assert main(["doctor", f"rshare:{share.name}", "--deadline-s", "30"]) == 0
    assert main(["doctor", f"rshare:{share.name}", "--deadline-s", "30", "--read-only"]) == 0
    assert main(["doctor", "nosuch:x"]) == 1
    told = capsys.readouterr()
    assert PASSWORD not in told.out + told.err
    assert list(share.root.iterdir()) == []


def at(url: str, server: Server, *, user: str | None = None, vendor: str = "other") -> dict[str, str]:
    """An environment in which the remote has this address."""
    prefix = "RCLONE_CONFIG_RSHARE"
    return {
        "RCLONE_CONFIG": os.devnull,
        f"{prefix}_TYPE": "webdav",
        f"{prefix}_URL": url,
        f"{prefix}_VENDOR": vendor,
        f"{prefix}_USER": user or server.user,
        f"{prefix}_PASS": obscure(server.password),
    }


def finding(options: doctor.Options, environ: dict[str, str], what: str) -> Finding:
    """What is found about one thing."""
    findings = {found.what: found for found in doctor.examine(options, environ)}
    assert PASSWORD not in "".join(map(str, findings.values()))
    return findings[what]


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("name", ["share", "cloud_share", "folder"])
def test_misspelt_folder_fails_and_is_told_what_is_there(
    name: str, *, writes: bool, options: doctor.Options, request: pytest.FixtureRequest
) -> None:
    """The advice has the whole path that may be meant; no folder is made."""
    share: Folder = request.getfixturevalue(name)
    share.put({"datasets/flowers/train/a": b"", "datasets/birds/a": b"", "datasets/notes.txt": b""})
    is_local = type(share) is Folder
    top = share.location if is_local else f"rshare:{share.root.name}"
    environ = {} if is_local else share.environ()  # type: ignore[attr-defined]
    asked = dataclasses.replace(options, location=f"{top}/datasets/flwers/train", writes=writes)
    found = finding(asked, environ, "folder" if writes or not is_local else "linked")
    assert found.state == "bad"
    if found.what == "folder":
        assert "'flwers'" in found.told
        assert "'flowers'" in found.told
        assert "'birds'" not in found.told
        assert f"write {top}/datasets/flowers/train " in found.advice
    assert sorted(path.name for path in (share.root / "datasets").iterdir()) == ["birds", "flowers", "notes.txt"]


def test_new_folder_is_a_note_and_is_not_said_to_be_readable(
    share: Share, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next number in a series of runs is no misspelling; the folder can be written, and has nothing to read."""
    share.put({"runs/run-001/a": b""})
    for name, value in share.environ().items():
        monkeypatch.setenv(name, value)
    assert main(["doctor", f"rshare:{share.name}/runs/run-002"]) == 0
    told = capsys.readouterr().out
    assert "note  folder      there is no 'run-002'" in told
    assert "Training can write here; there is nothing to read yet." in told
    assert "read and write" not in told


@pytest.mark.parametrize("name", ["wsgidav", "nextcloud", "apache", "rclone"])
@pytest.mark.parametrize("below", ["", "/x"])
@pytest.mark.parametrize("writes", [True, False])
def test_a_file_is_no_folder(
    name: str, below: str, *, writes: bool, options: doctor.Options, request: pytest.FixtureRequest
) -> None:
    """The advice is the folder to give, whatever the server answers to a slash after a file."""
    share = Share(request.getfixturevalue(name))
    share.put({"datasets/a.tar": b"1"})
    asked = dataclasses.replace(options, location=f"rshare:{share.name}/datasets/a.tar{below}", writes=writes)
    found = finding(asked, share.environ(), "folder")
    assert found.state == "bad"
    assert "is a file; give the folder that it lies in" in found.told


def fill(path: Path, size_bytes: int) -> None:
    """Write as many bytes, or as many as there is room for."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        for _ in range(size_bytes // 4096):
            file.write(bytes(4096))


@pytest.mark.parametrize("size_bytes", [34 * 2**20, 64 * 2**20])
def test_full_disk_fails_for_spool_and_cache_in_mib(
    size_bytes: int, options: doctor.Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nearly full disk and a full one fail, also if the cache has found another directory."""
    with ext4(tmp_path / "disk", 40 * 2**20) as disk:
        fill(disk / "rest", size_bytes)
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
        environ = {"RCLONE_CONFIG": os.devnull, "XDG_CACHE_HOME": str(disk)}
        for temporary in (tmp_path, disk):
            monkeypatch.setattr(tempfile, "tempdir", str(temporary))
            for what in ("cache", "spool") if size_bytes > 40 * 2**20 else ("cache",):
                found = finding(options, environ, what)
                assert found.state == "bad", found
                assert " MiB" in found.told
                assert "free some space" in found.advice


def test_spool_that_another_user_could_change_fails(options: doctor.Options, tmp_path: Path) -> None:
    """A link that leads nowhere and a file fail too."""
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    (tmp_path / "file").write_bytes(b"")
    for name, told in (("link", "No such file"), ("file", "is no folder")):
        found = finding(options, {"RCLONE_CONFIG": os.devnull, "AI4OS_DATA_SPOOL": str(tmp_path / name)}, "spool")
        assert (found.state, told in found.told) == ("bad", True)
    if os.geteuid() == 0:
        (tmp_path / "theirs").mkdir()
        os.chown(tmp_path / "theirs", 65534, 65534)
        found = finding(options, {"RCLONE_CONFIG": os.devnull, "AI4OS_DATA_SPOOL": str(tmp_path / "theirs")}, "spool")
        assert (found.state, "belongs to another user" in found.told) == ("bad", True)


def test_spool_goes_where_it_can_be_written(
    options: doctor.Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spool lies among temporary files, as for checkpoints, if the user's own folder cannot be used."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").write_bytes(b"")
    found = finding(options, {"RCLONE_CONFIG": os.devnull, "XDG_CACHE_HOME": str(tmp_path / "file")}, "spool")
    assert (found.state, str(tmp_path / f"ai4os-data-spool-{os.getuid()}") in found.told) == ("good", True)


def test_spool_on_a_network_share_fails(mount: RcloneMount, options: doctor.Options) -> None:
    """A spool has to be on a local disk."""
    environ = {"RCLONE_CONFIG": os.devnull, "AI4OS_DATA_SPOOL": str(mount.path / "spool")}
    assert finding(options, environ, "spool").state == "bad"
    assert not (mount.path / "spool").exists()


@pytest.mark.parametrize(
    ("answer", "what", "words"),
    [
        (LOGIN_PAGE, "server", "is the address right"),
        (BROKEN_XML, "server", "is the address right"),
        (Fault(status=405), "server", "is the address right"),
        (Fault(status=500), "server", "the reason in its log"),
        (Fault(status=503), "server", "maintenance"),
        (Fault(status=429), "server", "ask nothing for some minutes"),
        (Fault(status=302, headers={"Location": "https://login.example/"}), "server", "is the address right"),
        (Fault(status=404), "server", "is the address right"),
        (Fault(status=403), "credentials", "may not do this"),
        (Fault(drop=True), "server", "in maintenance or overloaded"),
    ],
)
def test_an_answer_that_is_not_webdav_is_no_ok(
    fault: FaultServer, options: doctor.Options, answer: Fault, what: str, words: str
) -> None:
    """A login page has status 200, and fails like the others; each gets its own advice."""
    fault.always("/", answer, method="PROPFIND")
    found = finding(options, at(fault.url, fault), what)
    assert found.state == "bad"
    assert words in found.advice


def test_an_address_that_is_wrong_is_told_what_it_should_be(
    share: Share, nextcloud: NextcloudServer, options: doctor.Options
) -> None:
    """Each gets its advice: no such path, the web page, another user's files, no scheme, no TLS, no such host."""
    url, top = share.server.url, nextcloud.url.partition("/remote.php")[0]
    for address, server, what, words in (
        (f"{url}nosuch/deep", share.server, "server", "remote.php/dav/files/USER"),
        (f"{top}/apps/files", nextcloud, "server", "remote.php/dav/files/USER"),
        (nextcloud.url.replace("/alice", "/bob"), nextcloud, "server", "names 'bob', the credentials are of 'alice'"),
        ("127.0.0.1:80/dav", share.server, "linked", "correct the remote"),
        (url.replace("http:", "https:"), share.server, "server", "does not speak TLS"),
        ("http://nosuch.invalid/", share.server, "server", "no host is called 'nosuch.invalid'"),
        ("http://127.0.0.1:9/", share.server, "server", "nobody listens at 127.0.0.1, port 9"),
    ):
        found = finding(options, at(address, server, vendor=server.name), what)
        assert found.state == "bad", address
        assert words in found.advice, address


def test_a_certificate_that_is_not_trusted_is_told(options: doctor.Options, tmp_path: Path) -> None:
    """The advice says what is wrong with the certificate, and what to set."""
    certificates = make_certificates(tmp_path)
    with FaultServer(tmp_path / "secure", certificate=certificates.valid) as server:
        found = finding(options, at(server.url, server), "server")
    assert found.state == "bad"
    assert "SSL_CERT_FILE" in found.advice
    assert "not trusted (" in found.advice


def test_a_proxy_that_is_in_the_way_is_named(
    share: Share, options: doctor.Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advice names its variable, and not its password."""
    proxy = {"http_proxy": f"http://user:{PASSWORD}@127.0.0.1:9", "no_proxy": ""}
    for name, value in proxy.items():
        monkeypatch.setenv(name, quote(value, safe=":/@"))
    found = finding(options, {**at(share.server.url, share.server), **proxy}, "server")
    assert "proxy http://127.0.0.1:9, since http_proxy is set" in found.advice
    monkeypatch.setenv("http_proxy", "http://:odd:")
    found = finding(options, {**at(share.server.url, share.server), "http_proxy": "http://:odd:"}, "server")
    assert found.state == "bad"
    assert "unset the variable" in found.advice


def test_advice_on_a_wrong_password_says_where_it_comes_from(
    share: Share, options: doctor.Options, tmp_path: Path
) -> None:
    """It comes from a variable of the deployment, or from a remote in rclone's configuration."""
    found = finding(options, share.environ(password="wrong"), "credentials")
    assert "RCLONE_CONFIG_RSHARE_PASS" in found.advice
    assert "link the storage again" in found.advice
    config = tmp_path / "rclone.conf"
    config.write_text(f"[shelf]\ntype = webdav\nurl = {share.server.url}\nuser = alice\npass = {obscure('wrong')}\n")
    found = finding(options, {"RCLONE_CONFIG": str(config)}, "credentials")
    assert "rclone config update shelf pass" in found.advice


def test_dead_mount_fails_where_nothing_reads_past_it(cloud_share: Share, tmp_path: Path) -> None:
    """With credentials a dead mount is a note, without them a failure."""
    need(missing_fuse())
    server = cloud_share.server
    with RcloneMount(server.url, server.user, server.password, tmp_path / "mount", vendor="nextcloud") as mount:
        os.kill(mount.child.pid, signal.SIGKILL)
        options = doctor.Options(deadline_s=5.0, storage=str(mount.path))
        wait_for(lambda: finding(options, cloud_share.environ(), "mounted").state == "fair")
        alone = {"RCLONE_CONFIG": os.devnull}
        assert finding(options, alone, "mounted").state == "bad"
        asked = dataclasses.replace(options, location=f"{mount.path}/data")
        assert "restart the deployment" in finding(asked, alone, "linked").advice


def test_quota_says_what_its_figures_are(cloud_share: Share, options: doctor.Options) -> None:
    """Nextcloud's figures can be old, and below a folder they count the folder alone."""
    cloud_share.put({"a/b": b"1"})
    told = finding(options, cloud_share.environ(), "quota").told
    assert "can be minutes old" in told
    assert "by this folder" not in told
    asked = dataclasses.replace(options, location=f"rshare:{cloud_share.name}/a")
    assert "used by this folder" in finding(asked, cloud_share.environ(), "quota").told


def test_the_trash_bin_is_looked_through_for_checkpoints(cloud_share: Share, options: doctor.Options) -> None:
    """Checkpoints are known by their names; what else a user has deleted is not counted."""
    checkpoint = f"{cloud_share.name}/run/000001-0123abcd/step-000000007-00000a1b"
    before = finding(options, cloud_share.environ(), "trash bin")
    cloud_share.put(
        {
            "run/000001-0123abcd/step-000000007-00000a1b/state-0.pt": b"1234",
            "run/000001-0123abcd/step-000000007-00000a1b/MANIFEST.json": b"56",
            "holidays/a.jpg": b"789",
        }
    )
    store = open_store("rshare:", environ=cloud_share.environ())
    store.delete(f"{checkpoint}/MANIFEST.json")
    store.remove_tree(checkpoint)
    store.remove_tree(f"{cloud_share.name}/holidays")
    after = finding(options, cloud_share.environ(), "trash bin")
    assert after.state == "fair"
    assert "do not count against the quota" in after.advice
    entries = [0 if one.state == "good" else int(one.told.partition(" ")[0]) for one in (before, after)]
    assert entries[1] - entries[0] == 2


def command(*arguments: str) -> list[str]:
    """The command in a process of its own."""
    return [sys.executable, "-c", "import sys; from ai4os_data.cli.main import main; sys.exit(main())", *arguments]


@pytest.mark.parametrize(("location", "code"), [("", 0), ("/nosuch", 1)])
def test_a_pipe_that_nobody_reads_changes_nothing(share: Share, location: str, code: int) -> None:
    """There is no traceback, and the exit code is that of the findings, also of those that nobody read."""
    share.put({"a": b""})
    environ = {**os.environ, **share.environ(), "AI4OS_DATA_SPOOL": str(share.root / "spool")}
    asked = command("doctor", "--read-only", f"rshare:{share.name}{location}")
    process = subprocess.Popen(asked, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == code
    process.stderr.close()


def test_help_into_a_pipe_that_nobody_reads() -> None:
    """The help into a closed pipe is no error."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command("--help"), stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert done.stderr == b""


@pytest.mark.parametrize("method", ["PROPFIND", "PUT", "GET"])
def test_ctrl_c_ends_it_without_a_traceback_and_leaves_nothing(fault: FaultServer, method: str) -> None:
    """Whether it asks, writes or reads back: the probe and the folders are removed."""
    # Long enough that the signal comes meanwhile, and no deadline does, however loaded the machine is.
    fault.always("/" if method == "PROPFIND" else "*", Fault(stall_s=30.0), method=method)
    environ = {**os.environ, **at(fault.url, fault)}
    asked = command("doctor", "--deadline-s", "120", "rshare:new/deep")
    process = subprocess.Popen(asked, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: method in {request.method for request in fault.requests()} or process.poll() is not None, 120)
    process.send_signal(signal.SIGINT)
    told, errors = process.communicate(timeout=60)
    assert "interrupted" in errors
    assert "Traceback" not in told + errors
    assert process.returncode == 130
    assert list(fault.root.iterdir()) == []
