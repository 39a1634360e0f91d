"""Other logins of rclone: a command that prints a token, header lines, and credentials that are read anew."""

from __future__ import annotations

import os
import pickle
import sys
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest

from ai4os_data import StorageDataset
from ai4os_data.errors import AuthenticationError, RemoteError
from ai4os_data.http.bodies import MemoryBody
from ai4os_data.locations import tokens
from ai4os_data.locations.rclone import obscure
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import Fetched, open_store
from ai4os_data.stores.webdav import WebDAVStore
from tests.locations.test_remotes import conf, rclone
from tests.support.servers import Fault

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import FaultServer


class Command:
    """A token command: it prints the content of a file, and counts its runs."""

    def __init__(self, folder: Path, token: str) -> None:
        self._script = folder / "print token.py"
        self._token = folder / "token"
        self._runs = folder / "runs"
        self._script.write_text(
            "import sys\nfrom pathlib import Path\n"
            f"open({str(self._runs)!r}, 'a').write('1')\nprint(Path({str(self._token)!r}).read_text())\n"
        )
        self.change(token)

    def change(self, token: str) -> None:
        """Print another token from now on."""
        self._token.write_text(token)

    @property
    def option(self) -> str:
        """The option as ``rclone.conf`` has it: a word with a space is quoted."""
        return f'{sys.executable} "{self._script}"'

    @property
    def runs(self) -> int:
        """How often it was run."""
        return len(self._runs.read_text()) if self._runs.exists() else 0


@pytest.fixture
def command(fault: FaultServer, tmp_path: Path) -> Command:
    """One that prints the server's token; the server has a file."""
    (fault.root / "d").mkdir()
    (fault.root / "d" / "a.bin").write_bytes(b"1")
    assert fault.token is not None
    return Command(tmp_path, fault.token)


def configured(fault: FaultServer, tmp_path: Path, *options: str) -> dict[str, str]:
    """An environment whose remote ``hifis`` has these options."""
    lines = ["[hifis]", "type = webdav", f"url = {fault.url}", "vendor = other", *options]
    return conf(tmp_path / "rclone.conf", "\n".join(lines) + "\n")


def test_a_token_command_is_run_as_rclone_runs_it(fault: FaultServer, command: Command, tmp_path: Path) -> None:
    """It runs once for all stores of the process, and the real rclone sends the same token."""
    environ = configured(fault, tmp_path, f"bearer_token_command = {command.option}")
    assert rclone("lsf", "hifis:d", environ=environ) == "a.bin\n"
    by_rclone = {request.headers["authorization"] for request in fault.requests()}
    fault.forget()
    assert command.runs == 1
    for _ in range(3):
        store = open_store("hifis:d", environ=environ)
        assert [entry.key for entry in store.list()] == ["a.bin"]
        assert store.read("a.bin") == b"1"
    assert command.runs == 2
    assert {request.headers["authorization"] for request in fault.requests()} == by_rclone == {f"Bearer {fault.token}"}


def test_a_token_command_is_not_run_before_it_is_needed(fault: FaultServer, command: Command, tmp_path: Path) -> None:
    """Reading the configuration sends nothing and runs nothing."""
    environ = configured(fault, tmp_path, f"bearer_token_command = {command.option}")
    assert [remote.name for remote in Remote.known(environ)] == ["hifis"]
    assert Remote.matching(f"{fault.url}d", environ) is not None
    assert command.runs == 0


@pytest.mark.parametrize("other", ["user = alice", "pass = x", "bearer_token = t"])
def test_a_token_command_gives_way_to_other_credentials(
    fault: FaultServer, command: Command, tmp_path: Path, other: str
) -> None:
    """Other credentials take precedence, as in rclone."""
    environ = configured(fault, tmp_path, f"bearer_token_command = {command.option}", other)
    assert Remote.discover("hifis", environ).token_command == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("oidc-token hifis", ("oidc-token", "hifis")),
        ('sh -c "echo $X | cat"', ("sh", "-c", "echo $X | cat")),
        ('a "b ""c"" d"', ("a", 'b "c" d')),
        ("a 'b c'", ("a", "'b", "c'")),
        ("", ()),
    ],
)
def test_a_command_is_split_as_rclone_splits_it(text: str, words: tuple[str, ...]) -> None:
    """It is split at spaces, outside double quotes; no shell reads it."""
    assert tokens.command_of(text) == words


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("/no/such/program hifis", "cannot be run"),
        (f"{sys.executable} -c \"raise SystemExit('no agent')\"", "ended with 1: no agent"),
        (f"{sys.executable} -c \"print('s3cr3t t0ken')\"", "several words"),
        (f'{sys.executable} -c "print()"', "nothing"),
    ],
)
def test_a_token_command_that_fails_is_told(fault: FaultServer, tmp_path: Path, option: str, told: str) -> None:
    """The error has the remote's name and the command's stderr, but not its output."""
    environ = configured(fault, tmp_path, f"bearer_token_command = {option}")
    with pytest.raises(RemoteError, match=told) as raised:
        open_store("hifis:d", environ=environ)
    assert "hifis" in str(raised.value)
    assert "s3cr3t" not in f"{raised.value} {raised.value.__context__}"
    assert fault.requests() == []


def test_a_token_that_has_expired_is_read_anew(fault: FaultServer, command: Command, tmp_path: Path) -> None:
    """The command runs again once for all who hold the old token, after one refused request."""
    assert fault.token is not None
    command.change("expired")
    environ = configured(fault, tmp_path, f"bearer_token_command = {command.option}")
    stores = [open_store("hifis:d", environ=environ) for _ in range(2)]
    with pytest.raises(AuthenticationError):
        stores[0].list()
    assert command.runs == 2  # it still prints the old one
    assert len(fault.requests()) == 1
    fault.forget()
    command.change(fault.token)
    held = [WebDAVStore(Remote.discover("hifis", environ), "d") for _ in range(3)]
    for store in held:
        assert store.read("a.bin") == b"1"
    assert command.runs == 3
    assert [request.status for request in fault.requests()].count(401) == 1
    assert {store.transport.remote.renewed(environ) for store in held[1:]} == {None}


def test_an_odd_refusal_in_a_training_runs_the_command_again(
    fault: FaultServer, command: Command, tmp_path: Path
) -> None:
    """The rest of the epoch is read, even if it prints the same token."""
    environ = configured(fault, tmp_path, f"bearer_token_command = {command.option}")
    store = open_store("hifis:d", environ=environ)
    for _ in range(5):
        assert store.read("a.bin") == b"1"
    fault.script("d/a.bin", Fault(status=401))
    for _ in range(5):
        assert store.read("a.bin") == b"1"
    assert command.runs == 2


def test_credentials_are_read_anew_from_where_they_were_found(tmp_path: Path) -> None:
    """They are read at the same address; unchanged ones give None."""
    text = "[work]\ntype = webdav\nurl = https://work.example/dav\nuser = bob\npass = {}\n"
    environ = conf(tmp_path / "rclone.conf", text.format("old-password"))
    held = Remote.discover("work", environ).at("https://work.example/dav/deeper")
    assert held.renewed(environ) is None
    conf(tmp_path / "rclone.conf", text.format("new-password"))
    renewed = held.renewed(environ)
    assert renewed is not None
    assert (renewed.url, renewed.user, renewed.password) == (held.url, "bob", "new-password")
    newer = held.renewed(environ | {"RCLONE_CONFIG_WORK_PASS": "newer-password"})
    assert newer is not None
    assert newer.password == "newer-password"
    moved = text.format("new-password").replace("work.example", "elsewhere.example")
    conf(tmp_path / "rclone.conf", moved)
    assert held.renewed(environ) is None
    (tmp_path / "rclone.conf").unlink()
    assert held.renewed(environ) is None
    assert Remote("https://work.example/dav", "bob", "given").renewed(environ) is None


def test_a_password_that_is_changed_in_a_training_is_read_anew(
    fault: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the many requests in flight none fails, and no later one uses the old password."""
    (fault.root / "d").mkdir()
    for number in range(200):
        (fault.root / "d" / f"{number:03}.bin").write_bytes(bytes([number]))
    environ = configured(fault, tmp_path, f"user = {fault.user}", f"pass = {obscure(fault.password)}")
    monkeypatch.setenv("RCLONE_CONFIG", environ["RCLONE_CONFIG"])
    store = open_store("hifis:d")
    entries = store.list()
    fault.change(latency_s=0.02)
    read = {}
    for entry, outcome in store.read_many(entries):
        assert isinstance(outcome, Fetched)
        read[entry.key] = outcome.body.getvalue() if isinstance(outcome.body, MemoryBody) else None
        if len(read) == 50:
            changed = "another-Passw\u00f6rd#3"
            configured(fault, tmp_path, f"user = {fault.user}", f"pass = {obscure(changed)}")
            basic = b64encode(f"{fault.user}:{changed}".encode()).decode()
            fault.change(authorization=f"Basic {basic}")
    assert read == {f"{number:03}.bin": bytes([number]) for number in range(200)}


def test_a_token_command_may_be_given(fault: FaultServer, command: Command) -> None:
    """A command can be given in Python, without rclone."""
    remote = Remote(fault.url, token_command=command.option)
    assert remote == Remote(fault.url, token_command=tokens.command_of(command.option))
    dataset = StorageDataset("d", remote=remote, cache=None)
    assert dataset[0] == b"1"
    assert pickle.loads(pickle.dumps(dataset))[0] == b"1"  # noqa: S301  our own
    assert command.runs == 1


# Headers.


@pytest.mark.parametrize(
    "form", ["Authorization,Bearer {}", '"Authorization","Bearer {}"', 'X-A,"1,2",Authorization,Bearer {}']
)
@pytest.mark.usefixtures("command")  # and its file
def test_headers_are_sent_as_rclone_sends_them(fault: FaultServer, tmp_path: Path, form: str) -> None:
    """They are sent with every request, of listings and of files."""
    environ = configured(fault, tmp_path, f"headers = {form.format(fault.token)}")
    assert rclone("lsf", "hifis:d", environ=environ) == "a.bin\n"
    by_rclone = fault.requests()[0].headers
    fault.forget()
    store = open_store("hifis:d", environ=environ)
    assert store.list()[0].key == "a.bin"
    assert store.read("a.bin") == b"1"
    for request in fault.requests():
        for name in ("authorization", "x-a"):
            assert request.headers.get(name) == by_rclone.get(name)


def test_headers_may_be_given_as_a_mapping() -> None:
    """They may be a list of pairs too; the remote can still be compared and hashed."""
    given: list[Any] = [{"X-A": "1", "X-B": "2"}, [["X-A", "1"], ("X-B", "2")]]
    assert {Remote("https://h/dav", headers=headers) for headers in given} == {
        Remote("https://h/dav", headers=(("X-A", "1"), ("X-B", "2")))
    }


@pytest.mark.usefixtures("command")
def test_a_header_goes_over_the_password(fault: FaultServer, tmp_path: Path) -> None:
    """A header Authorization replaces the password, as in rclone."""
    environ = configured(
        fault, tmp_path, "user = nobody", "pass = wrong", f"headers = Authorization,Bearer {fault.token}"
    )
    store = open_store("hifis:d", environ=environ)
    assert store.list()[0].key == "a.bin"
    assert store.read("a.bin") == b"1"


@pytest.mark.parametrize(
    "headers", ["Authorization", "Range,bytes=0-1", "accept-encoding,gzip", "Depth,1", "X A,1", "X-A,a\x07b", ",x"]
)
def test_headers_that_cannot_be_sent_are_told(fault: FaultServer, tmp_path: Path, headers: str) -> None:
    """Headers that would change the meaning of a request are refused too."""
    with pytest.raises(RemoteError, match=r"hifis.*header"):
        Remote.discover("hifis", configured(fault, tmp_path, f"headers = {headers}"))


def test_refused_headers_are_told_as_such(fault: FaultServer, tmp_path: Path) -> None:
    """The error does not say that there are no credentials; others may be tried at once."""
    (fault.root / "d").mkdir()
    (fault.root / "d" / "a.bin").write_bytes(b"1")
    environ = configured(fault, tmp_path, "headers = Authorization,Bearer s3cr3t")
    with pytest.raises(AuthenticationError, match="does not accept the headers") as raised:
        open_store("hifis:d", environ=environ).list()
    assert "s3cr3t" not in f"{raised.value} {Remote.discover('hifis', environ)!r}"


# Other options.


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("unix_socket = /run/dav.sock", "unix_socket"),
        ("vendor = sharepoint", "sharepoint"),
        ("vendor = sharepoint-ntlm", "sharepoint-ntlm"),
    ],
)
def test_an_option_that_cannot_be_followed_is_told(fault: FaultServer, tmp_path: Path, option: str, told: str) -> None:
    """The error comes before any request."""
    with pytest.raises(RemoteError, match=told):
        open_store("hifis:", environ=configured(fault, tmp_path, option))
    assert fault.requests() == []


@pytest.mark.parametrize("option", ["auth_redirect", "owncloud_exclude_shares", "owncloud_exclude_mounts", "encoding"])
def test_an_option_that_is_not_followed_is_logged(
    fault: FaultServer, tmp_path: Path, option: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, and only if it is switched on."""
    Remote.discover("hifis", configured(fault, tmp_path, f"{option} = {'None' if option == 'encoding' else 'false'}"))
    assert caplog.text == ""
    environ = configured(fault, tmp_path, f"{option} = {'Slash' if option == 'encoding' else 'true'}")
    assert list(Remote.known(environ))  # looking through them uses none
    assert caplog.text == ""
    for _ in range(2):
        Remote.discover(
            "hifis", configured(fault, tmp_path, f"{option} = {'Slash' if option == 'encoding' else 'true'}")
        )
    assert caplog.text.count(option) == 1


@pytest.mark.parametrize(
    "option",
    ["nextcloud_chunk_size = 1Gi", "pacer_min_sleep = 1s", "can_chunk = true", "description = mine"]
    + [f"vendor = {vendor}" for vendor in ("owncloud", "infinitescale", "fastmail", "rclone", "nextcloud")],
)
def test_options_that_change_nothing_here_do_no_harm(
    fault: FaultServer, command: Command, tmp_path: Path, option: str
) -> None:
    """They concern uploads of rclone, and its questions."""
    environ = configured(fault, tmp_path, f"bearer_token_command = {command.option}", option)
    assert open_store("hifis:d", environ=environ).read("a.bin") == b"1"
    assert os.environ.get("RCLONE_CONFIG") != environ["RCLONE_CONFIG"]
