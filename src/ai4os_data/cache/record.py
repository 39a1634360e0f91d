"""What all processes of a cache share: a short record in its lock file, written by whoever has the ledger."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import NamedTuple

import xxhash

_FIELDS = struct.Struct("<dqqdq")
CEDED_FOR_S = 3600.0  # a process that needs the room for longer asks again
_CLOCK_STEP_S = 60.0  # clocks may be corrected by some seconds
_BEGIN = 1  # after the mark that says whether somebody has the ledger


class Record(NamedTuple):
    """The record.

    Attributes:
        check_at: when the index is to be compared with the files again, as `time.time` counts.
        overhead_bytes: the disk space of files beyond what is counted.
        limit_bytes: the limit that held when this was written; 0 if that is not known.
        ceded_until: the time until which room is left to others.
        ceded_bytes: how much of the limit is left to others.
    """

    check_at: float = 0.0
    overhead_bytes: int = 0
    limit_bytes: int = 0
    ceded_until: float = 0.0
    ceded_bytes: int = 0

    def ceded_at(self, now: float) -> int:
        """How much of the limit is left to others at a time; 0 if the record was written when the clock was ahead."""
        return self.ceded_bytes if now < self.ceded_until and not self.is_of_the_future(now) else 0

    def is_of_the_future(self, now: float) -> bool:
        """Whether the record was written when the clock was ahead, and so leaves room to others for too long."""
        return self.ceded_until > now + CEDED_FOR_S + _CLOCK_STEP_S

    def write(self, lock: int) -> None:
        """Write it into a lock file that is open."""
        data = _FIELDS.pack(*self)
        os.pwrite(lock, data + xxhash.xxh3_64_digest(data), _BEGIN)


def read_record(lock: int) -> Record:
    """The record of a lock file that is open; an empty one if it is damaged."""
    data = os.pread(lock, _FIELDS.size + 8, _BEGIN)
    fields = data[: _FIELDS.size]
    if len(data) != _FIELDS.size + 8 or xxhash.xxh3_64_digest(fields) != data[_FIELDS.size :]:
        return Record()
    return Record(*_FIELDS.unpack(fields))


def record_in(directory: str) -> Record:
    """The record of a cache directory; an empty one if nothing was stored there yet."""
    with suppress(OSError), open(f"{directory}/lock", "rb", buffering=0) as file:
        return read_record(file.fileno())
    return Record()
