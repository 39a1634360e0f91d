"""Where names stand in their file is found by eight bytes each; a name that is lost or damaged is a second fetch."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

from ai4os_data.cache import MOST_KNOWN, digest
from ai4os_data.cache.name_positions import NamePositions
from ai4os_data.cache.names import Names
from ai4os_data.cache.objects import Objects

if TYPE_CHECKING:
    from pathlib import Path


def lines(number: int) -> list[str]:
    """Return names of files as the cache gives them."""
    return [f"{digest(str(n))}-{n:x}-{n:016x}.bin" for n in range(number)]


def test_every_name_is_found_however_it_came() -> None:
    """Lines are found if added one by one or at once; the last line of a digest counts, a removed one is gone."""
    file = "".join(f"{line}\n" for line in ["0123456789abcdef", *lines(6000)]).encode()  # it has a head
    positions = NamePositions(lambda begin: file[begin : file.index(b"\n", begin)].decode())
    place = 17
    for line in lines(6000):
        positions.add(line[:32], place)
        place += len(line) + 1
    assert all(positions.line(line[:32]) == line for line in lines(6000))
    assert positions.line(digest("another")) is None
    for line in lines(6000)[::7]:
        positions.remove(line[:32])
    assert [positions.line(line[:32]) is None for line in lines(6000)] == [n % 7 == 0 for n in range(6000)]


def test_names_of_another_process_are_heard_and_the_latest_counts(tmp_path: Path) -> None:
    """Thousands of lines are read at once, damaged ones are passed over; of two lines of a digest the last counts."""
    os.makedirs(f"{tmp_path}/objects")
    teller, listener = Names(f"{tmp_path}/names"), Objects(str(tmp_path))
    for line in lines(3000):
        teller.append(line)
    teller.append("no name at all")
    teller.append("x" * 70)
    again = f"{digest('5')}-ff-{7:016x}.bin"
    teller.append(again)
    for number in random.Random(4).sample(range(3000), 300):
        held = listener.known.find(digest(str(number)))
        assert held is not None
        assert held.path.endswith(again if number == 5 else lines(3000)[number])
    found = listener.known.find(digest("5"))
    assert found is not None
    assert found.size_bytes == 255
    assert not listener.is_there(found)  # no file of the name is there


def test_few_files_are_kept_at_hand_and_all_are_found(tmp_path: Path) -> None:
    """A process keeps `MOST_KNOWN` entries in memory, half a KB each, and finds all others by their positions."""
    os.makedirs(f"{tmp_path}/objects")
    teller, listener = Names(f"{tmp_path}/names"), Objects(str(tmp_path))
    number = MOST_KNOWN + MOST_KNOWN // 2
    for line in lines(number):
        teller.append(line)
    for _ in range(2):
        assert all(listener.known.find(line[:32]) is not None for line in lines(number))
        assert len(listener.known.recent) <= MOST_KNOWN


def test_forked_process_goes_on_in_the_file_of_names(tmp_path: Path) -> None:
    """A forked child reads no line again, and finds what is appended afterwards."""
    os.makedirs(f"{tmp_path}/objects")
    teller, listener = Names(f"{tmp_path}/names"), Objects(str(tmp_path))
    for line in lines(100):
        teller.append(line)
    assert listener.known.find(digest("0")) is not None
    if (child := os.fork()) == 0:
        is_right = listener.known.names.news()[2] == b""
        teller.append(f"{digest('new')}-1-{1:016x}.bin")
        is_right = is_right and None not in map(listener.known.find, [digest("new"), digest("99")])
        os._exit(0 if is_right else 1)
    assert os.waitpid(child, 0)[1] == 0
