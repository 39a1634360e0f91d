"""A zip that comes in pieces gives every member that is whole, and no other, wherever it ends."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib

import pytest

from ai4os_data.http import MemoryBody
from ai4os_data.stores.unpacking import Member, Unpacker
from tests.stores.test_archive_names import Pipe, streamed_zip

FILES = {"d/a.bin": b"first", "d/b.bin": b"", "d/c.bin": b"PK\3\4 and PK\7\10 are bytes as others", "d/e.bin": b"last"}
SIZES = {name.encode(): len(data) for name, data in FILES.items()}


def zip64(members: dict[str, bytes]) -> bytes:
    """Build an archive as Nextcloud sends it: folders, and files whose sizes follow them as 64 bits."""
    archive = b""
    for name, data in {"d/": b"", **members}.items():
        flags = 0 if name.endswith("/") else 8
        extra = struct.pack("<HHQQQI", 1, 28, 0, 0, len(archive), 0)
        head = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 45, flags, 0, 0, 0, 0, 2**32 - 1, 2**32 - 1, len(name), 32)
        archive += head + name.encode() + extra + data
        if flags:
            archive += struct.pack("<4sIQQ", b"PK\7\10", zlib.crc32(data), len(data), len(data))
    return archive + b"PK\1\2" + bytes(42)


def plain(members: dict[str, bytes]) -> bytes:
    """Build an archive whose sizes follow as 32 bits."""
    return streamed_zip(list(members.items()))


def with_sizes(members: dict[str, bytes]) -> bytes:
    """Build an archive that says each size before the bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


FORMS = {"zip64": zip64, "plain": plain, "with sizes": with_sizes}


def choose(name: bytes) -> Member[MemoryBody] | None:
    """Want every file."""
    if name.endswith(b"/"):
        return Member(0, None)
    return Member(SIZES[name], MemoryBody()) if name in SIZES else None


def unpacked(archive: bytes, piece_bytes: int | None = None) -> tuple[Unpacker[MemoryBody], dict[str, bytes]]:
    """What is taken out of an archive that comes in pieces."""
    unpacker = Unpacker(choose)
    step = piece_bytes or len(archive) or 1
    for begin in range(0, len(archive), step):
        unpacker.write(archive[begin : begin + step])
    assert unpacker.length == len(archive)
    return unpacker, {name.decode(): body.getvalue() for name, body in unpacker.came if body is not None}


@pytest.mark.parametrize("form", FORMS)
def test_pieces_of_any_size_give_the_same(form: str) -> None:
    """From one byte at a time to all at once."""
    archive = FORMS[form](FILES)
    for piece_bytes in range(1, len(archive) + 1):
        unpacker, came = unpacked(archive, piece_bytes)
        assert came == FILES
        assert list(came) == list(FILES)
        assert unpacker.is_complete


@pytest.mark.parametrize("form", FORMS)
def test_an_archive_that_ends_anywhere_gives_what_was_whole(form: str) -> None:
    """Each member is whole or absent, in order."""
    archive = FORMS[form](FILES)
    numbers = []
    for stop in range(len(archive)):
        _, came = unpacked(archive[:stop], 7)
        assert came == dict(list(FILES.items())[: len(came)])
        numbers.append(len(came))
        with_error, again = unpacked(archive[:stop] + b'<?xml version="1.0"?><d:error>', 5)
        assert again == dict(list(FILES.items())[: len(again)])
        assert len(again) <= max(len(came), 4)
        assert not with_error.is_complete or stop > archive.index(b"PK\1\2")
    assert numbers == sorted(numbers)
    assert numbers[-1] == len(FILES)


@pytest.mark.parametrize("form", FORMS)
def test_a_flipped_byte_is_found(form: str) -> None:
    """Of no member other bytes are given out than those that were put in."""
    archive = FORMS[form](FILES)
    for position in range(archive.index(b"PK\1\2")):
        for flip in (1, 0x80):
            damaged = bytearray(archive)
            damaged[position] ^= flip
            _, came = unpacked(bytes(damaged), 11)
            for name, data in came.items():
                assert data == FILES[name], position


def test_a_wrong_crc_costs_one_member() -> None:
    """The next ones are where they should be."""
    unpacker, came = unpacked(zip64(FILES).replace(b"first", b"fIrst"), 3)
    assert came == {name: data for name, data in FILES.items() if name != "d/a.bin"}
    assert unpacker.came[0] == (b"d/a.bin", None)


def test_a_member_that_is_not_stored_ends_the_reading() -> None:
    """How long a compressed one is nobody knows before its end."""
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:  # type: ignore[call-overload]
        archive.writestr("d/a.bin", FILES["d/a.bin"])
        archive.writestr("d/c.bin", FILES["d/c.bin"], zipfile.ZIP_DEFLATED)
        archive.writestr("d/e.bin", FILES["d/e.bin"])
    unpacker, came = unpacked(pipe.content)
    assert list(came) == ["d/a.bin"]
    assert unpacker.is_over
    assert not unpacker.is_complete


def test_a_name_that_nobody_knows_ends_the_reading() -> None:
    """And so does a member that is shorter or longer than was listed."""
    for other in ({"d/new.bin": b"x"}, {"d/a.bin": b"longer than that"}, {"d/a.bin": b"less"}):
        unpacker, came = unpacked(zip64({"d/e.bin": b"last", **other, "d/b.bin": b""}), 4)
        assert came == {"d/e.bin": b"last"}
        assert unpacker.is_over
        assert unpacker.beyond_bytes > 0


def test_a_name_that_comes_twice_is_given_out_twice() -> None:
    """What that means is for the caller to say."""
    with warnings.catch_warnings(action="ignore"):
        archive = streamed_zip([("d/a.bin", b"first"), ("d/a.bin", b"fIrst")])
    assert [(name, body.getvalue()) for name, body in unpacked(archive)[0].came if body] == [
        (b"d/a.bin", b"first"),
        (b"d/a.bin", b"fIrst"),
    ]


def test_what_comes_again_is_read_from_its_beginning() -> None:
    """After a try that broke off; what was whole stays."""
    archive = zip64(FILES)
    unpacker = Unpacker(choose)
    unpacker.write(archive[: archive.index(b"and")])
    unpacker.restart()
    assert unpacker.length == 0
    assert [name for name, _ in unpacker.came] == [b"d/a.bin", b"d/b.bin"]
    unpacker.came.clear()
    unpacker.write(archive)
    assert [body.getvalue() for _, body in unpacker.came if body] == list(FILES.values())


def test_a_member_that_is_not_whole_takes_no_room() -> None:
    """Its body is emptied."""
    bodies: list[MemoryBody] = []

    def kept(name: bytes) -> Member[MemoryBody] | None:
        member = choose(name)
        if member is not None and member.body is not None:
            bodies.append(member.body)
        return member

    archive = zip64(FILES)
    unpacker = Unpacker(kept)
    unpacker.write(archive[: archive.index(b"and")])
    assert bodies[-1].length > 0
    unpacker.drop()
    assert bodies[-1].length == 0
