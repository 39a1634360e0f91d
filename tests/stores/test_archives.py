"""Many small files come as one archive, and each of them as certainly as by a GET of its own."""

from __future__ import annotations

import hashlib
import json
import random
import time
import tracemalloc
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest

from ai4os_data import errors
from ai4os_data.http.bodies import HashBody, MemoryBody
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import Fetched
from ai4os_data.stores.nextcloud import NextcloudStore
from tests.nextcloud import NextcloudServer
from tests.support.archived import FILES, open_share, served
from tests.support.outcomes import content
from tests.support.shares import Share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ai4os_data.http.bodies import Body
    from ai4os_data.http.retries import Patience
    from ai4os_data.stores import Entry

LARGE_BYTES = 3 * 1024 * 1024


@pytest.fixture
def share(nextcloud: NextcloudServer) -> Iterator[Share]:
    """A folder of small files on Nextcloud 34, without faults."""
    yield from served(nextcloud)


@pytest.fixture
def store(share: Share, patience: Patience) -> NextcloudStore:
    """Its store."""
    return open_share(share, patience)


def read(store: NextcloudStore, entries: list[Entry]) -> dict[str, bytes]:
    """All of them, each once."""
    outcomes = list(store.read_many(entries))
    assert sorted(entry for entry, _ in outcomes) == sorted(entries)
    return {entry.key: content(outcome) for entry, outcome in outcomes}


def asked(share: Share) -> tuple[int, int]:
    """How many archives were asked for, and how many single files."""
    archives = sum(":query" in request.headers for request in share.requests("GET"))
    return archives, len(share.requests("GET")) - archives


def test_small_files_come_in_few_requests(share: Share, store: NextcloudStore) -> None:
    """Two archives of one size, of at most 128 files, whatever folders they lie in."""
    assert read(store, store.list()) == FILES
    queries = [request.headers[":query"] for request in share.requests("GET")]
    assert [len(json.loads(parse_qs(query)["files"][0])) for query in queries] == [100, 100]
    assert asked(share) == (2, 0)
    assert store.counters.totals()["requests_archive"] == 2


def test_the_next_archive_does_not_wait_for_the_last_file(share: Share, store: NextcloudStore) -> None:
    """When an archive ends the next one is asked for, and no more entries are taken than that needs."""
    taken: list[Entry] = []

    def entries() -> Iterator[Entry]:
        for number in range(3):
            for entry in listed:
                taken.append(entry)
                yield entry._replace(etag=f"{number}")

    listed = store.list()
    arrivals = store.read_many(entries())
    next(arrivals)
    assert len(taken) in {3 * 128, 4 * 128}, "one for each that has ended: both may end at once on a busy machine"
    sent = len(taken) // 128
    end = time.monotonic() + 5
    while asked(share) != (sent, 0) and time.monotonic() < end:
        time.sleep(0.01)
    assert asked(share) == (sent, 0), "it is sent while the caller has the first file in hand"
    assert len(list(arrivals)) == 3 * len(FILES) - 1
    assert asked(share) == (5, 0)


def test_large_files_come_alone(share: Share, store: NextcloudStore) -> None:
    """They cost the server their bytes either way, and an archive is held in memory."""
    large = random.Random(1).randbytes(LARGE_BYTES)
    share.put({"class 0/large.bin": large})
    assert read(store, store.list()) == FILES | {"class 0/large.bin": large}
    assert asked(share) == (2, 1)


def test_one_small_file_comes_alone(share: Share, store: NextcloudStore) -> None:
    """An archive of one file gains nothing, and has no ETag."""
    assert read(store, store.list()[:1]) == {min(FILES): FILES[min(FILES)]}
    assert asked(share) == (0, 1)


@pytest.mark.parametrize("number", [8, 15, 16, 31, 127, 128, 129])
def test_two_archives_are_asked_for_at_once(share: Share, store: NextcloudStore, number: int) -> None:
    """Files that fit into one archive are split into two; a handful is not."""
    some = store.list()[:number]
    assert read(store, some).keys() == {entry.key for entry in some}
    assert asked(share) == (1 if number < 16 else 2, 0)


@pytest.mark.parametrize("hangs_up", [False, True])
@pytest.mark.parametrize("after_bytes", [0, 10, 5_000, 30_000])
def test_a_torn_archive_gives_what_it_had(
    nextcloud: NextcloudServer,
    share: Share,
    store: NextcloudStore,
    after_bytes: int,
    hangs_up: bool,  # noqa: FBT001  a parameter
) -> None:
    """Even if the answer is a complete 200: the file at the cut comes alone, those after it as an archive."""
    nextcloud.truncate_next_archive(after_bytes, hangs_up=hangs_up)
    assert read(store, store.list()) == FILES
    again_whole = hangs_up and after_bytes == 0
    assert asked(share) == (3, 0 if again_whole else 1)


@pytest.mark.parametrize("place", [0, 1, 60, 99, 100, 199])
def test_a_locked_member_cuts_off_itself_alone(
    nextcloud: NextcloudServer, share: Share, store: NextcloudStore, place: int
) -> None:
    """The server ends the archive with an error, in a 200; the members after it are asked for once more."""
    nextcloud.lock_member(sorted(FILES)[place], count=10)
    assert read(store, store.list()) == FILES
    archives, alone = asked(share)
    assert archives == (2 if place in {99, 199} else 3)
    assert alone == 1


def test_three_locked_members_cost_three_files(nextcloud: NextcloudServer, share: Share, store: NextcloudStore) -> None:
    """Each end of an archive brings it on."""
    for place in (20, 21, 100):
        nextcloud.lock_member(sorted(FILES)[place], count=10)
    assert read(store, store.list()) == FILES
    assert asked(share) == (5, 3)


def test_archives_without_a_member_become_smaller(
    nextcloud: NextcloudServer, share: Share, store: NextcloudStore
) -> None:
    """As from a version that finds out that a file is missing when it has begun to answer."""
    for _ in range(4):
        nextcloud.truncate_next_archive(20)
    assert read(store, store.list()) == FILES
    assert asked(share) == (2 + 2 + 4, 4)


def test_archives_that_never_have_a_member_are_given_up(
    nextcloud: NextcloudServer, share: Share, store: NextcloudStore
) -> None:
    """Smaller ones are tried, as long as that is worth it."""
    for _ in range(60):
        nextcloud.truncate_next_archive(20)
    assert read(store, store.list()) == FILES
    archives, alone = asked(share)
    assert archives <= 2 * (2 + 2 + 4)
    assert alone == len(FILES)


def test_a_damaged_member_is_fetched_alone(nextcloud: NextcloudServer, share: Share, store: NextcloudStore) -> None:
    """Its CRC-32 shows the damage; the other members are kept."""
    for key in list(FILES)[3:6]:
        nextcloud.corrupt_member(key)
    assert read(store, store.list()) == FILES
    assert asked(share) == (2, 3)


def test_a_member_that_is_left_out_is_fetched_alone(
    nextcloud: NextcloudServer, share: Share, store: NextcloudStore
) -> None:
    """Every name is looked for."""
    for key in list(FILES)[3:6]:
        nextcloud.drop_member(key)
    assert read(store, store.list()) == FILES
    assert asked(share) == (2, 3)


def test_a_file_that_is_gone_fails_alone(share: Share, store: NextcloudStore) -> None:
    """Its archive is refused as a whole, with 404; the others of it come, nearly all of them in smaller ones."""
    entries = store.list()
    gone = list(FILES)[7]
    share.remove(gone)
    share.server.forget()
    outcomes = {entry.key: outcome for entry, outcome in store.read_many(entries)}
    assert isinstance(outcomes.pop(gone), errors.NotFoundError)
    assert {key: content(outcome) for key, outcome in outcomes.items()} == {
        key: data for key, data in FILES.items() if key != gone
    }
    archives, alone = asked(share)
    assert archives <= 2 + 2 * 4
    assert alone < 2 * 16


def test_a_folder_that_is_gone_costs_few_archives(share: Share, store: NextcloudStore) -> None:
    """If hardly a file is left, each is soon asked for by itself."""
    entries = store.list()
    share.remove(*list(FILES)[5:])
    share.server.forget()
    outcomes = {entry.key: outcome for entry, outcome in store.read_many(entries)}
    assert sum(isinstance(outcome, errors.NotFoundError) for outcome in outcomes.values()) == len(FILES) - 5
    assert asked(share)[0] <= 30


def test_a_member_of_another_size_does_not_hide_the_others(
    nextcloud: NextcloudServer, share: Share, store: NextcloudStore
) -> None:
    """Its end is unknown; the members after it are asked for again."""
    entries = store.list()
    changed = {key: FILES[key] + b"longer" for key in sorted(FILES)[40:42]}
    share.put(changed)
    nextcloud.forget()
    assert read(store, entries) == FILES | changed
    assert asked(share) == (4, 2)


def test_a_file_of_another_size_comes_as_it_is_now(share: Share, store: NextcloudStore) -> None:
    """It comes with its own ETag, and so is not taken for the listed version."""
    entries = store.list()
    changed = list(FILES)[7]
    share.put({changed: b"another length"})
    outcomes = {entry.key: outcome for entry, outcome in store.read_many(entries)}
    outcome = outcomes[changed]
    assert isinstance(outcome, Fetched)
    assert content(outcome) == b"another length"
    assert outcome.entry.is_same_version(store.stat(changed))
    listed = next(entry for entry in entries if entry.key == changed)
    assert not outcome.entry.is_same_version(listed)


def test_a_file_that_has_grown_takes_no_memory_in_an_archive(share: Share, store: NextcloudStore) -> None:
    """No more of an archive is kept in memory than was listed; the file comes by a GET of its own."""
    entries = store.list()[:40]
    grown = random.Random(2).randbytes(48 * 2**20)
    share.put({entries[3].key: grown})

    def body(entry: Entry) -> Body:
        return HashBody() if entry.key == entries[3].key else MemoryBody()

    tracemalloc.start()
    came = dict(store.read_many(entries, body))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    outcome = came[entries[3]]
    assert isinstance(outcome, Fetched)
    assert isinstance(outcome.body, HashBody)
    assert outcome.body.sha256 == hashlib.sha256(grown).hexdigest()
    assert len(came) == 40
    assert peak_bytes < 8 * 2**20


def test_names_never_make_a_request_too_long(share: Share, patience: Patience) -> None:
    """Long ones, deep ones and ones that grow threefold when they are encoded."""
    share = Share(share.server)
    long = "\u00e9" * 60
    files = {f"{'deep folder/' * (number % 5)}{long}{number:03}.bin": b"%d" % number for number in range(150)}
    share.put(files)
    store = open_share(share, patience)
    assert read(store, store.list()) == files
    archives, alone = asked(share)
    assert archives > 2
    assert alone <= 5
    assert {request.status for request in share.requests("GET")} == {200}


def test_a_server_without_archives_is_asked_for_one_once(nextcloud_29: NextcloudServer, patience: Patience) -> None:
    """Nextcloud 29 answers with a page; then every file comes by itself."""
    share = Share(nextcloud_29)
    share.put(FILES)
    nextcloud_29.forget()
    store = open_share(share, patience)
    for _ in range(2):
        assert read(store, store.list()) == FILES
    archives, alone = asked(share)
    assert archives <= 2  # as many as are in flight at once
    assert alone == 2 * len(FILES)


@pytest.mark.parametrize("status", [400, 403, 404, 413, 414, 423, 500, 507])
def test_an_archive_that_is_refused_costs_no_file(
    nextcloud: NextcloudServer, store: NextcloudStore, status: int
) -> None:
    """Whatever the server has against it, a GET of each file may still be allowed."""
    entries = store.list()
    nextcloud.answer_next(1, status, method="GET")
    assert read(store, entries) == FILES


def test_a_page_instead_of_an_archive_costs_no_file(nextcloud: NextcloudServer, store: NextcloudStore) -> None:
    """A gateway may answer once with a page; every file still comes."""
    entries = store.list()
    nextcloud.answer_next(1, 200, headers={"Content-Type": "text/html"}, body="<html>", method="GET")
    assert read(store, entries) == FILES


def test_a_busy_server_is_asked_again_for_the_archive(
    nextcloud: NextcloudServer, share: Share, store: NextcloudStore
) -> None:
    """And not for each file."""
    entries = store.list()
    nextcloud.answer_next(1, 503, method="GET")
    assert read(store, entries) == FILES
    assert asked(share) == (3, 0)


def test_a_server_that_is_gone_is_not_asked_for_each_file(
    nextcloud: NextcloudServer, share: Share, store: NextcloudStore
) -> None:
    """What fails for the whole storage fails for all of the archive."""
    entries = store.list()
    nextcloud.set_maintenance(True)
    outcomes = list(store.read_many(entries))
    assert len(outcomes) == len(FILES)
    assert all(isinstance(outcome, errors.ServerUnavailableError) for _, outcome in outcomes)
    assert asked(share) == (2 * 3, 0)


def test_credentials_that_expired_end_the_asking(
    nextcloud: NextcloudServer, share: Share, store: NextcloudStore
) -> None:
    """At most both archives that are in flight are refused."""
    entries = store.list()
    password = nextcloud.password
    nextcloud.credentials_expire()
    try:
        outcomes = list(store.read_many(entries))
        assert all(isinstance(outcome, errors.AuthenticationError) for _, outcome in outcomes)
        assert asked(share)[0] in {1, 2}
        assert asked(share)[1] == 0
    finally:
        nextcloud.change_password(password)
        nextcloud.open_again()


def test_the_files_of_an_account_s_root_come_as_archives(
    tmp_path_factory: pytest.TempPathFactory, patience: Patience
) -> None:
    """Where there is no folder to name."""
    with NextcloudServer(tmp_path_factory.mktemp("root")) as server:
        for key in ("a.bin", "b c.bin", "sub/d.bin"):
            path = server.root / key
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(key.encode())
        for url in (server.url, server.legacy_url):
            store = NextcloudStore(Remote(url, server.user, server.password), patience=patience)
            server.forget()
            assert read(store, store.list()) == {"a.bin": b"a.bin", "b c.bin": b"b c.bin", "sub/d.bin": b"sub/d.bin"}
            assert [":query" in request.headers for request in server.requests() if request.method == "GET"] == [True]


def test_a_file_that_is_asked_for_twice_comes_twice(store: NextcloudStore) -> None:
    """An archive has each name once, and the store still yields both."""
    one, two, three = store.list()[:3]
    came = list(store.read_many([one, two, three, one]))
    assert sorted(entry.key for entry, _ in came) == sorted([one.key, one.key, two.key, three.key])
    assert all(content(outcome) == FILES[entry.key] for entry, outcome in came)


def test_session_cookies_are_kept(share: Share, store: NextcloudStore) -> None:
    """The first answer to a listing and to a download starts a session; later requests send its cookies."""
    entries = store.list()
    store.list()
    for entry in entries[:3]:
        list(store.read_many([entry]))
    list(store.read_many(entries))
    for method, least in (("PROPFIND", 2), ("GET", 5)):
        first, *others = share.requests(method)
        assert "cookie" not in first.headers
        assert len(others) >= least - 1
        assert all("oc_sessionPassphrase" in request.headers.get("cookie", "") for request in others)
