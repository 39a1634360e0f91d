"""Remotes are found where rclone finds them, and their secrets stay with them."""

from __future__ import annotations

import os
import pickle
import random
import string
import subprocess
import traceback
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai4os_data.errors import RemoteError
from ai4os_data.locations.rclone import obscure, reveal
from ai4os_data.locations.remotes import Remote
from tests.support.servers import PASSWORD, WsgidavServer
from tests.support.servers import rclone as real_rclone

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

URL = "https://cloud.example/remote.php/dav/files/alice"
OBSCURED = obscure(PASSWORD)
ENVIRON = {
    "RCLONE_CONFIG": os.devnull,
    "RCLONE_CONFIG_RSHARE_TYPE": "webdav",
    "RCLONE_CONFIG_RSHARE_URL": URL,
    "RCLONE_CONFIG_RSHARE_VENDOR": "nextcloud",
    "RCLONE_CONFIG_RSHARE_USER": "alice",
    "RCLONE_CONFIG_RSHARE_PASS": OBSCURED,
}
"""What the main container of a deployment has."""
PASSWORDS = [PASSWORD, "a", " spaces around ", "-begins-like-an-option", "quo'te\"d\\", "\U0001f33b" * 20, "x" * 300]


def rclone(*arguments: str, environ: Mapping[str, str] | None = None) -> str:
    """The answer of the real rclone."""
    return subprocess.run(
        [real_rclone.find_rclone(), *arguments],
        env={**real_rclone._environment({}), **(environ or {})},
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
    ).stdout


def conf(path: Path, text: str) -> dict[str, str]:
    """An environment with this ``rclone.conf`` and nothing else."""
    path.write_text(text, encoding="utf-8")
    return {"RCLONE_CONFIG": str(path)}


# Obscured passwords.


@pytest.mark.parametrize("password", PASSWORDS)
def test_what_rclone_obscured_is_revealed(password: str) -> None:
    """We reveal what the real binary obscured."""
    assert reveal(real_rclone.obscure(password)) == password


@pytest.mark.parametrize("password", PASSWORDS)
def test_what_we_obscured_is_revealed_by_rclone(password: str) -> None:
    """The real binary reveals what we obscured."""
    assert rclone("reveal", "--", obscure(password)).removesuffix("\n") == password


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_we_obscured_we_reveal(password: str) -> None:
    """It holds for any text."""
    assert reveal(obscure(password)) == password


def test_the_same_password_is_obscured_differently_each_time() -> None:
    """Each has an initialisation vector of its own."""
    assert len({obscure(PASSWORD) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "text",
    ["", "sesame", "x" * 21, PASSWORD, OBSCURED[:-1] + "*", OBSCURED + "=", "\u00e9" * 30],
    ids=["empty", "short", "22 letters less one", "plain", "a star in it", "padded", "accents"],
)
def test_what_was_not_obscured_is_not_revealed(text: str) -> None:
    """Neither the error nor its cause shows it."""
    with pytest.raises(ValueError, match="not made by") as raised:
        reveal(text)
    assert not text or text not in "".join(traceback.format_exception(raised.value)).replace(__file__, "")


# From the environment.


def test_a_remote_of_the_environment_is_found() -> None:
    """A deployment with linked storage has these variables."""
    remote = Remote.discover("rshare", ENVIRON)
    assert (remote.url, remote.user, remote.password, remote.vendor, remote.name) == (
        URL,
        "alice",
        PASSWORD,
        "nextcloud",
        "rshare",
    )


@pytest.mark.parametrize("name", ["rshare", "RSHARE", "RShare"])
def test_the_case_of_a_name_does_not_matter_to_the_environment(name: str) -> None:
    """Variables are in upper case, whatever the user types."""
    assert Remote.discover(name, ENVIRON).password == PASSWORD


def test_empty_variables_are_absent_ones() -> None:
    """A deployment without storage has them; the error says how to link one."""
    empty = dict.fromkeys(ENVIRON, "") | {"RCLONE_CONFIG": os.devnull}
    with pytest.raises(RemoteError, match="no remote is called 'rshare'") as raised:
        Remote.discover("rshare", empty)
    assert "RCLONE_CONFIG_RSHARE_URL" in str(raised.value)
    assert list(Remote.known(empty)) == []


def test_a_plain_password_is_taken_as_it_is() -> None:
    """The sidecar has plain passwords."""
    assert Remote.discover("rshare", ENVIRON | {"RCLONE_CONFIG_RSHARE_PASS": PASSWORD}).password == PASSWORD


def test_app_passwords_of_nextcloud_are_not_taken_for_obscured_ones() -> None:
    """Two thousand of both forms, of five groups and of 72 characters, stay as they are."""
    order = random.Random(1)
    for _ in range(1000):
        groups = "-".join("".join(order.choices(string.ascii_letters + string.digits, k=5)) for _ in range(5))
        token = "".join(order.choices(string.ascii_letters + string.digits, k=72))
        for password in (groups, token):
            assert Remote.discover("rshare", ENVIRON | {"RCLONE_CONFIG_RSHARE_PASS": password}).password == password


def test_a_remote_without_a_password_has_none() -> None:
    """A public share has no password."""
    assert Remote.discover("rshare", ENVIRON | {"RCLONE_CONFIG_RSHARE_PASS": ""}).password is None


def test_a_bearer_token_is_found() -> None:
    """The configuration of rclone has tokens in the clear."""
    remote = Remote.discover("rshare", ENVIRON | {"RCLONE_CONFIG_RSHARE_BEARER_TOKEN": "abc.def"})
    assert remote.token == "abc.def"


def test_a_remote_of_another_kind_is_told_as_such() -> None:
    """The error says what to do instead."""
    with pytest.raises(RemoteError, match=r"type 's3'.*fsspec"):
        Remote.discover("rshare", ENVIRON | {"RCLONE_CONFIG_RSHARE_TYPE": "s3"})


def test_a_remote_without_a_url_is_told_as_such() -> None:
    """The error names the missing variable."""
    with pytest.raises(RemoteError, match="RCLONE_CONFIG_RSHARE_URL"):
        Remote.discover("rshare", ENVIRON | {"RCLONE_CONFIG_RSHARE_URL": ""})


# From rclone.conf.

CONF = f"""
[work]
type = webdav
url = https://work.example/dav
vendor = other
user = bob
pass = {OBSCURED}

; a comment
[Photos 2]
type = webdav
url = https://photos.example/dav/%20/
user = 100%%bob
pass = {OBSCURED}

[disk]
type = local
"""


def test_a_remote_of_the_configuration_file_is_found(tmp_path: Path) -> None:
    """Every value is read as it is written."""
    environ = conf(tmp_path / "rclone.conf", CONF)
    work = Remote.discover("work", environ)
    assert (work.url, work.user, work.password, work.vendor) == ("https://work.example/dav", "bob", PASSWORD, "other")
    photos = Remote.discover("Photos 2", environ)
    assert (photos.url, photos.user) == ("https://photos.example/dav/%20", "100%%bob")


def test_the_real_rclone_writes_what_we_read(tmp_path: Path) -> None:
    """Users run ``rclone config create``."""
    environ = {"RCLONE_CONFIG": str(tmp_path / "rclone.conf")}
    options = ["url", URL, "vendor", "nextcloud", "user", "alice", "pass", PASSWORD]
    rclone("config", "create", "mine", "webdav", *options, "--obscure", "--non-interactive", environ=environ)
    remote = Remote.discover("mine", environ)
    assert (remote.url, remote.user, remote.password, remote.vendor) == (URL, "alice", PASSWORD, "nextcloud")


@pytest.mark.parametrize("variable", ["XDG_CONFIG_HOME", "HOME"])
def test_the_configuration_file_is_where_rclone_has_it(tmp_path: Path, variable: str) -> None:
    """Without a variable, the default path of rclone is used."""
    folder = tmp_path / ("rclone" if variable == "XDG_CONFIG_HOME" else ".config/rclone")
    folder.mkdir(parents=True)
    (folder / "rclone.conf").write_text(CONF)
    assert Remote.discover("work", {variable: str(tmp_path)}).user == "bob"


def test_the_environment_goes_over_the_file_value_by_value(tmp_path: Path) -> None:
    """As in rclone, an empty value overrides nothing."""
    environ = conf(tmp_path / "rclone.conf", CONF)
    environ |= {"RCLONE_CONFIG_WORK_USER": "carol", "RCLONE_CONFIG_WORK_URL": ""}
    work = Remote.discover("work", environ)
    assert (work.url, work.user, work.password) == ("https://work.example/dav", "carol", PASSWORD)


def test_remotes_that_are_known_are_those_that_can_be_used(tmp_path: Path) -> None:
    """Those of the environment come first, each once, and no other kinds."""
    environ = ENVIRON | conf(tmp_path / "rclone.conf", CONF) | {"RCLONE_CONFIG_WORK_USER": "carol"}
    assert [remote.name for remote in Remote.known(environ)] == ["rshare", "work", "Photos 2"]


def test_a_configuration_that_cannot_be_read_is_told_without_its_lines(tmp_path: Path) -> None:
    """It is encrypted, or no configuration."""
    for text in ("# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\nsecret+lines==", "secret lines"):
        with pytest.raises(RemoteError, match="encrypted") as raised:
            Remote.discover("work", conf(tmp_path / "rclone.conf", text))
        assert "secret" not in "".join(traceback.format_exception(raised.value, limit=0))


def test_an_unreadable_configuration_does_not_hide_the_environment(tmp_path: Path) -> None:
    """A remote whose variables are complete needs no file."""
    environ = ENVIRON | conf(tmp_path / "rclone.conf", "RCLONE_ENCRYPT_V0:\nnonsense")
    assert Remote.discover("rshare", environ).password == PASSWORD


# Aliases.


def test_an_alias_is_followed_to_its_remote(tmp_path: Path) -> None:
    """An alias may add a path, and lead to another alias."""
    text = f"{CONF}\n[data]\ntype = alias\nremote = work:data/sets\n[cats]\ntype = alias\nremote = data:cats\n"
    remote = Remote.discover("cats", conf(tmp_path / "rclone.conf", text))
    assert (remote.url, remote.user, remote.password) == ("https://work.example/dav/data/sets/cats", "bob", PASSWORD)


def test_the_path_of_an_alias_is_a_name_and_no_address(tmp_path: Path) -> None:
    """It is encoded when it becomes part of an address."""
    text = f"{CONF}\n[data]\ntype = alias\nremote = work:data sets#1/100%\n"
    remote = Remote.discover("data", conf(tmp_path / "rclone.conf", text))
    assert remote.url == "https://work.example/dav/data%20sets%231/100%25"


@pytest.mark.parametrize("target", ["loop:", "other:x", "nowhere:", "/mnt/disk", "disk:x", ""])
def test_an_alias_that_leads_nowhere_is_an_error(tmp_path: Path, target: str) -> None:
    """It leads in a circle, to nothing, or to a disk."""
    text = f"{CONF}\n[loop]\ntype = alias\nremote = {target}\n[other]\ntype = alias\nremote = loop:y\n"
    with pytest.raises(RemoteError):
        Remote.discover("loop", conf(tmp_path / "rclone.conf", text))


def test_rclone_and_we_find_the_same_remote(wsgidav: WsgidavServer, tmp_path: Path) -> None:
    """Both read one configuration from the file and the environment."""
    (wsgidav.root / "both ways #1").mkdir()
    (wsgidav.root / "both ways #1" / "a.bin").write_bytes(b"both")
    text = f"[mine]\ntype = webdav\nurl = https://wrong.example/\nuser = {wsgidav.user}\nvendor = other\n"
    text += "[both]\ntype = alias\nremote = mine:both ways #1\n"
    environ = conf(tmp_path / "rclone.conf", text)
    environ |= {"RCLONE_CONFIG_MINE_URL": wsgidav.url, "RCLONE_CONFIG_MINE_PASS": real_rclone.obscure(wsgidav.password)}
    assert rclone("cat", "both:a.bin", environ=environ) == "both"
    from ai4os_data.stores import open_store

    assert open_store("both:", environ=environ).read("a.bin") == b"both"


# What a remote is.


def test_credentials_in_a_url_are_moved_out_of_it() -> None:
    """They are decoded, and given ones take precedence."""
    remote = Remote("https://alice:p%40ss%2F%23@cloud.example:8443/dav/")
    assert (remote.url, remote.user, remote.password) == ("https://cloud.example:8443/dav", "alice", "p@ss/#")
    assert Remote("https://alice:old@cloud.example/", "bob", "new").user == "bob"


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://alice:{PASSWORD}@cloud.example",
        "cloud.example/dav",
        "https://",
        f"https://alice:{PASSWORD}@",
        "https://alice:sesame@cloud.example:port/",
        "https://alice:ses/ame@cloud.example/",
        "",
    ],
)
def test_a_url_that_is_none_is_told_without_its_secrets(url: str) -> None:
    """The error shows what was wrong, and not the password."""
    with pytest.raises(RemoteError) as raised:
        Remote(url)
    told = "".join(traceback.format_exception(raised.value, limit=0))
    assert "sesame" not in told
    assert "ame@" not in told


def test_a_remote_shows_no_secret() -> None:
    """Neither its repr nor its str does."""
    remote = Remote(URL, "alice", PASSWORD, "bearer-token")
    assert PASSWORD not in f"{remote!r} {remote}"
    assert "bearer-token" not in f"{remote!r} {remote}"
    assert "alice" in repr(remote)


def test_a_remote_cannot_be_changed() -> None:
    """A remote is a value."""
    with pytest.raises(AttributeError):
        Remote(URL).user = "bob"  # type: ignore[misc]


def test_a_remote_covers_what_lies_below_it_and_nothing_else() -> None:
    """Scheme, host, port and whole parts of the path are compared."""
    remote = Remote("https://cloud.example/dav/files/al%20ice")
    assert remote.covers("https://cloud.example/dav/files/al ice/a.bin")
    assert remote.covers("https://CLOUD.example:443/dav/files/al%20ice")
    for other in (
        "http://cloud.example/dav/files/al%20ice",
        "https://cloud.example:8443/dav/files/al%20ice",
        "https://cloud.example.org/dav/files/al%20ice",
        "https://cloud.example/dav/files/al%20icecream",
        "https://cloud.example/dav/files",
        "https://cloud.example@other.example/dav/files/al%20ice",
    ):
        assert not remote.covers(other)


def test_credentials_are_not_taken_to_another_server() -> None:
    """Another path of the same server is allowed."""
    remote = Remote(URL, "alice", PASSWORD)
    assert remote.at("https://cloud.example/other").password == PASSWORD
    for url in ("https://other.example/", "http://cloud.example/", "https://cloud.example:8443/"):
        with pytest.raises(RemoteError, match="are not sent to") as raised:
            remote.at(url)
        assert PASSWORD not in str(raised.value)


# On the way to another process.


def test_a_found_remote_is_pickled_as_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found again on the other side, from the same variables."""
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    remote = Remote.discover("rshare")
    pickled = pickle.dumps(remote)
    assert PASSWORD.encode() not in pickled
    assert OBSCURED.encode() not in pickled
    assert pickle.loads(pickled) == remote  # noqa: S301  it was made here
    below = remote.at(f"{URL}/folder")
    assert PASSWORD.encode() not in pickle.dumps(below)
    assert pickle.loads(pickle.dumps(below)) == below  # noqa: S301  it was made here
    monkeypatch.delenv("RCLONE_CONFIG_RSHARE_URL")
    with pytest.raises(RemoteError):
        pickle.loads(pickled)  # noqa: S301  it was made here


def test_a_remote_that_was_built_is_pickled_whole(tmp_path: Path) -> None:
    """The user's own credentials travel with the pickle."""
    remote = Remote(URL, "alice", PASSWORD, "token", name="mine", vendor="nextcloud", ca_file=tmp_path / "ca.pem")
    assert pickle.loads(pickle.dumps(remote)) == remote  # noqa: S301  it was made here
