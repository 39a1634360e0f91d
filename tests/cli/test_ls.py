"""The ls command shows what is there, soon, and bears what is done with its output."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.servers import Fault, FaultServer
from tests.support.servers.rclone import obscure
from tests.support.shares import Folder, Share
from tests.support.tool import command, tool

if TYPE_CHECKING:
    from tests.nextcloud import NextcloudServer

NAMES = {"a.txt": b"1", "b/c.txt": b"22", "b/d/e.txt": b"333", "f g#%ü.txt": b""}


@pytest.fixture(params=["directory", "wsgidav", "nextcloud"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """Some files on this disk, and on two servers."""
    if request.param == "directory":
        folder = Folder(tmp_path / "storage")
    else:
        folder = Share(request.getfixturevalue(request.param))
    folder.put(NAMES)
    return folder


def typed(place: Folder) -> tuple[str, dict[str, str]]:
    """What a user types, and has set."""
    return (f"rshare:{place.name}", place.environ()) if isinstance(place, Share) else (place.location, {})


def test_ls_shows_names_and_the_total_beside_them(place: Folder) -> None:
    """Folders end with a slash, as with ``rclone lsf``; the total is not in the output."""
    location, environ = typed(place)
    ended = tool("ls", location, environ=environ)
    assert (ended.returncode, ended.stdout) == (0, "a.txt\nb/\nf g#%ü.txt\n")
    assert ended.stderr == "1 folder, 2 files, 0 KiB\n"
    below = tool("ls", "-r", location, environ=environ)
    assert (below.returncode, below.stdout.splitlines()) == (0, sorted(NAMES))
    assert below.stderr == "4 files, 0 KiB\n"


def test_ls_shows_sizes_and_dates(place: Folder) -> None:
    """Each line has both; JSON has them to the byte and to the second, in UTC."""
    location, environ = typed(place)
    year = time.strftime("%Y")
    for line in tool("ls", "-rl", location, environ=environ).stdout.splitlines():
        assert "KiB" in line
        assert f"  {year}-" in line
    lines = [json.loads(line) for line in tool("ls", "-r", "--json", location, environ=environ).stdout.splitlines()]
    assert {line["path"]: line["size_bytes"] for line in lines} == {key: len(data) for key, data in NAMES.items()}
    assert all(line["modified"].startswith(year) and line["modified"].endswith("Z") for line in lines)
    here = [json.loads(line) for line in tool("ls", "--json", location, environ=environ).stdout.splitlines()]
    assert [(line["path"], line["is_folder"]) for line in here] == [
        ("a.txt", False),
        ("b", True),
        ("f g#%ü.txt", False),
    ]


def test_ls_of_twenty_thousand_files_is_quick_in_one_request(nextcloud: NextcloudServer) -> None:
    """The server is asked once, and the listing takes seconds; a reader that has enough ends it in silence."""
    share = Share(nextcloud)
    share.put({"big/0.bin": b""})
    for number in range(1, 20_000):
        (share.root / "big" / f"{number}.bin").touch()
    environ = share.environ()
    nextcloud.forget()
    begun = time.monotonic()
    ended = tool("ls", f"rshare:{share.name}/big", environ=environ)
    assert time.monotonic() - begun < 30
    assert len(ended.stdout.splitlines()) == 20_000
    assert ended.stderr == "20,000 files, 0 KiB\n"
    assert len(share.requests("PROPFIND")) == 1
    shell = f"{shlex.join(command('ls', f'rshare:{share.name}/big'))} | head -1; echo ${{PIPESTATUS[0]}}"
    piped = tool_in_shell(shell, environ)
    assert piped.stdout.splitlines()[0] == "0.bin"
    assert piped.stdout.splitlines()[1] in {"0", "141"}
    assert "Traceback" not in piped.stderr
    assert "BrokenPipe" not in piped.stderr


def tool_in_shell(line: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a line of bash."""
    return subprocess.run(
        ["bash", "-c", line], check=False, capture_output=True, text=True, env={**os.environ, **environ}
    )


def test_output_on_a_full_disk_is_an_error(place: Folder) -> None:
    """It is not taken for success."""
    location, environ = typed(place)
    with Path("/dev/full").open("w") as full:
        ended = tool("ls", location, environ=environ, stdout=full)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "ai4os-data: the output cannot be written: No space left on device"


def test_names_that_are_no_text_go_out_byte_for_byte(tmp_path: Path) -> None:
    """A pipe gets the bytes that the disk has; JSON has them escaped as Python reads them."""
    name = b"caf\xe9.txt"
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / os.fsdecode(name)).write_bytes(b"1")
    ended = subprocess.run(command("ls", tmp_path / "odd"), check=True, capture_output=True)
    assert ended.stdout == name + b"\n"
    (line,) = tool("ls", "--json", tmp_path / "odd").stdout.splitlines()
    assert os.fsencode(json.loads(line)["path"]) == name


REFUSED = """<d:multistatus xmlns:d="DAV:">
<d:response><d:href>/d/</d:href><d:propstat><d:prop><d:resourcetype><d:collection/></d:resourcetype></d:prop>
<d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>
<d:response><d:href>/d/bad/</d:href><d:status>HTTP/1.1 403 Forbidden</d:status></d:response>
<d:response><d:href>/d/a.bin</d:href><d:propstat><d:prop><d:resourcetype/><d:getcontentlength>9</d:getcontentlength>
</d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>
</d:multistatus>"""


@pytest.mark.parametrize("options", [["-r"], ["-r", "--json"]])
def test_ls_shows_the_rest_of_what_cannot_be_read_and_fails(fault: FaultServer, options: list[str]) -> None:
    """A folder that the server does not list is named beside the output, and the exit code is 1."""
    (fault.root / "d").mkdir()
    for path in ("d", "d/bad"):
        fault.always(path, Fault(status=207, body=REFUSED.encode()), method="PROPFIND")
    environ = {
        "RCLONE_CONFIG_RSHARE_TYPE": "webdav",
        "RCLONE_CONFIG_RSHARE_URL": fault.url,
        "RCLONE_CONFIG_RSHARE_USER": fault.user,
        "RCLONE_CONFIG_RSHARE_PASS": obscure(fault.password),
    }
    ended = tool("ls", *options, "rshare:d", environ=environ)
    assert ended.returncode == 1
    assert "a.bin" in ended.stdout
    assert ended.stderr.startswith("ai4os-data: rshare:d: 'bad'")
