"""The length of an answer decides whether it is compressed, and not its Content-Encoding."""

from __future__ import annotations

import gzip
import random
from typing import TYPE_CHECKING

import pytest

from ai4os_data import StorageCheckpoint, StorageDataset
from ai4os_data.errors import ChangedError, ProtocolError
from ai4os_data.http.requests import Request
from ai4os_data.locations.remotes import Remote
from ai4os_data.stores import Fetched, open_store
from tests.support.faulty import DATA, KEY, SIZE_BYTES, Faulty
from tests.support.outcomes import content
from tests.support.servers import ApacheServer, Fault, FaultServer, missing_apache, need

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data.datasets.sample import Sample

LABELS = [
    *("gzip", "x-gzip", "GZIP", "br", "deflate", "gzip, identity", "identity, gzip", "aws-chunked,gzip"),
    *("", "none", "None", "utf-8", "UTF-8", "binary", "8bit", "aws-chunked", "identity", "Identity", "IDENTITY, none"),
]
RANGED_BYTES = 17 * 1024 * 1024
CUT = 40_000


@pytest.fixture(params=LABELS)
def labelled(request: pytest.FixtureRequest, faulty: Faulty) -> Faulty:
    """A file whose every answer has that ``Content-Encoding``."""
    faulty.server.always(KEY, Fault(headers={"Content-Encoding": request.param}))
    faulty.server.always(KEY, Fault(headers={"Content-Encoding": request.param}), method="HEAD")
    return faulty


def test_a_file_of_the_listed_length_is_the_file(labelled: Faulty) -> None:
    """It is read whole and in ranges, whatever its label, with one request each."""
    assert labelled.bytes() == DATA
    assert labelled.store.read_range(labelled.entry, 10, 20) == DATA[10:20]
    assert labelled.store.read_range(labelled.entry, SIZE_BYTES - 5, SIZE_BYTES + 5) == DATA[-5:]
    assert len(labelled.requests()) == 3


def test_a_range_is_cut_out_of_a_whole_that_is_labelled(faulty: Faulty) -> None:
    """The server ignores ranges and sends the whole labelled file."""
    faulty.server.always(KEY, Fault(headers={"Content-Encoding": "gzip"}, ignore_range=True))
    assert faulty.store.read_range(faulty.entry, 10, 20) == DATA[10:20]
    assert faulty.store.read_range(faulty.entry, SIZE_BYTES - 5, SIZE_BYTES) == DATA[-5:]


def test_a_transfer_of_a_labelled_file_is_resumed(faulty: Faulty) -> None:
    """It resumes where it broke off: offsets in the body are offsets in the file."""
    label = {"Content-Encoding": "gzip"}
    faulty.server.script(KEY, Fault(headers=label, cut_after_bytes=CUT), Fault(headers=label))
    assert faulty.bytes() == DATA
    assert faulty.requests()[1].headers["range"] == f"bytes={CUT}-"


def test_a_head_is_answered(labelled: Faulty) -> None:
    """The answer to a HEAD has the length of the file."""
    response = labelled.store.transport.send(Request(labelled.store.address.url(KEY), method="HEAD"))
    assert response.headers["content-length"] == str(SIZE_BYTES)


def test_a_large_labelled_file_comes_in_ranges(faulty: Faulty, tmp_path: Path) -> None:
    """Several ranges are read at a time, as for any large file."""
    data = random.Random(5).randbytes(RANGED_BYTES)
    (faulty.server.root / "large.gz").write_bytes(data)
    faulty.server.always("large.gz", Fault(headers={"Content-Encoding": "gzip"}))
    entry = faulty.store.stat("large.gz")
    faulty.store.read_into(entry, tmp_path / "large")
    assert (tmp_path / "large").read_bytes() == data
    assert "range" in faulty.requests()[0].headers


def test_a_labelled_file_is_opened_as_any_other(faulty: Faulty) -> None:
    """``Sample.open()`` gives the stored bytes; decoding them is the user's."""
    data = gzip.compress(b"table" * 1000)
    (faulty.server.root / "d").mkdir()
    (faulty.server.root / "d" / "t.csv.gz").write_bytes(data)
    faulty.server.always("d/t.csv.gz", Fault(headers={"Content-Encoding": "x-gzip"}))

    def decode(sample: Sample) -> bytes:
        with sample.open() as file, gzip.open(file) as table:
            return table.read()

    remote = Remote(faulty.server.url, faulty.server.user, faulty.server.password)
    assert StorageDataset("d", remote=remote, decode=decode, cache=None)[0] == b"table" * 1000


def test_a_checkpoint_is_restored_from_labelled_files(fault: FaultServer, tmp_path: Path) -> None:
    """Both the manifest and the state are labelled."""
    remote = Remote(fault.url, fault.user, fault.password)
    with StorageCheckpoint("run", remote=remote, spool=tmp_path / "spool") as run:
        run.save({"weights": 3}, step=1).wait()
    fault.always("*", Fault(headers={"Content-Encoding": "gzip"}))
    with StorageCheckpoint("run", remote=remote, spool=tmp_path / "another") as run:
        restored = run.restore()
    assert restored is not None
    assert restored["weights"] == 3


def test_a_labelled_file_that_was_rewritten_comes_as_it_is_now(faulty: Faulty) -> None:
    """Its length differs from the listed one, and is the file's present length."""
    faulty.server.always(KEY, Fault(headers={"Content-Encoding": "gzip"}))
    (faulty.server.root / KEY).write_bytes(DATA[:500])
    outcome = faulty.outcome()
    assert isinstance(outcome, Fetched)
    assert content(outcome) == DATA[:500]
    assert outcome.entry.size_bytes == 500
    with pytest.raises(ChangedError, match="shrank"):
        faulty.store.read_range(faulty.entry, 10, 20)


@pytest.mark.parametrize("chunked", [False, True])
def test_what_is_compressed_on_its_way_is_refused(faulty: Faulty, chunked: bool) -> None:  # noqa: FBT001  a parameter
    """A whole file and a range, with a length and without one; the error says what to do."""
    zeros = bytes(SIZE_BYTES)
    (faulty.server.root / KEY).write_bytes(zeros)
    entry = faulty.store.stat(KEY)
    faulty.server.always(KEY, Fault(gzip=True, chunked=chunked, ignore_range=True))
    ((_, outcome),) = faulty.store.read_many([entry])
    assert isinstance(outcome, ProtocolError)
    for start, stop in ((0, 10), (SIZE_BYTES - 10, SIZE_BYTES)):
        with pytest.raises(ProtocolError, match="turn compression off"):
            faulty.store.read_range(entry, start, stop)


def test_a_listing_that_is_labelled_wrongly_is_told(faulty: Faulty) -> None:
    """A body that is not compressed as its head says is the server's fault, and no error of httpx."""
    faulty.server.always("", Fault(headers={"Content-Encoding": "gzip"}), method="PROPFIND")
    with pytest.raises(ProtocolError, match="not compressed as its head says"):
        faulty.store.list()


def test_apache_with_its_usual_encodings(tmp_path: Path) -> None:
    """AddEncoding, as half of its configurations have it, labels stored files and leaves them as they are."""
    need(missing_apache())
    (tmp_path / "root").mkdir()
    files = {
        "t.csv.gz": gzip.compress(b"table" * 1000),
        "scan.nii.gz": gzip.compress(bytes(5000)),
        "a.tgz": b"x" * 5000,
    }
    for key, data in files.items():
        (tmp_path / "root" / key).write_bytes(data)
    more = "AddEncoding x-gzip .gz .tgz\nAddType application/x-gzip .gz .tgz"
    with ApacheServer(tmp_path / "root", more=more) as server:
        store = open_store("", Remote(server.url, server.user, server.password))
        entries = store.list()
        assert {entry.key: content(outcome) for entry, outcome in store.read_many(entries)} == files
        for entry in entries:
            assert store.read_range(entry, 3, 9) == files[entry.key][3:9]
