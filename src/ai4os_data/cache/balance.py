"""How much a cache directory takes, and how much of its limit is free: counted entries, leases and bookkeeping."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ai4os_data.cache.record import Record, read_record
from ai4os_data.cache.rows import space_of
from ai4os_data.machine import disk_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai4os_data.cache.leases import Lease
    from ai4os_data.cache.ledger_lock import LedgerLock
    from ai4os_data.cache.mending import Mending
    from ai4os_data.cache.rows import Rows

TIMES_ITS_COST = 50  # a check of every file is repeated only after this many times its own duration

_MARGIN_BYTES = 64 * 1024
_LARGEST_MARGIN_BYTES = 4 * 1024 * 1024
_LONGEST_UNCHECKED_S = 3600.0


class Balance:
    """The balance; the caller has the ledger.

    Args:
        limit: gives what the directory may take in all.
        lock: has the record that all processes share.
        lease: of this process, among those of the others.
        rows: the counted entries.
        mending: counts in the files that dead processes have left.
    """

    def __init__(
        self, limit: Callable[[], int], *, lock: LedgerLock, lease: Lease, rows: Rows, mending: Mending
    ) -> None:
        self._limit = limit
        self._lock = lock
        self._lease = lease
        self._rows = rows
        self._mending = mending
        self._overhead_bytes = 0  # the disk space of the files beyond what is counted

    def free_bytes(self) -> int:
        """Bytes that may still be written; negative if the limit was lowered."""
        now = time.time()
        record = self.record()
        if record.is_of_the_future(now):  # it would hold once more when that time comes
            record = record._replace(ceded_until=0.0, ceded_bytes=0)
            record.write(self._lock.descriptor)
        return self._limit() - record.ceded_at(now) - self.used_bytes()

    def used_bytes(self) -> int:
        """How much the directory takes, leases and the margin included."""
        leased = self._lease.size_bytes + self._others_leased_bytes()  # first: it counts in files of dead processes
        bookkeeping = self._mending.bookkeeping_bytes() + self.margin_bytes()
        return leased + self._rows.volume_bytes() + self._overhead_bytes + bookkeeping

    def margin_bytes(self) -> int:
        """How much bookkeeping can grow until it is measured again: the database's log, and rows for leased room."""
        return self._rows.growth_bytes() + min(_LARGEST_MARGIN_BYTES, _MARGIN_BYTES + self._limit() // 512)

    def record(self) -> Record:
        """What all processes share."""
        return read_record(self._lock.descriptor)

    def note_limit(self) -> None:
        """Write the present limit into the record, and read the overhead that was last measured."""
        record = self.record()
        self._overhead_bytes = record.overhead_bytes
        if record.limit_bytes != self._limit():
            record._replace(limit_bytes=self._limit()).write(self._lock.descriptor)

    def check_now_and_then(self) -> None:
        """Compare the index with the files now and then: a flipped bit may have changed the sum, or its trigger.

        It takes milliseconds for each thousand entries, so the shared record holds the time of the next check.
        """
        begun = time.time()
        self.note_limit()
        if begun < self.record().check_at < begun + _LONGEST_UNCHECKED_S:
            return
        if not self._agrees() and not self._agrees():  # an entry may have been removed as damaged in between
            self._mending.log_new_index("did not agree with the files")
            self._mending.rebuild()
        ended = time.time()
        self.record()._replace(
            check_at=ended + TIMES_ITS_COST * (ended - begun), overhead_bytes=self._overhead_bytes
        ).write(self._lock.descriptor)

    def _agrees(self) -> bool:
        """Whether the sum in the index agrees with the files; the space beyond the sum is kept as overhead."""
        here, _ = self._mending.reconcile(count_in=self._others_leased_bytes() == 0)
        expected = space_of(here.values())
        self._overhead_bytes = max(0, sum(disk_bytes(held.path) for held in here.values()) - expected)
        return self._rows.entries_bytes() == expected

    def _others_leased_bytes(self) -> int:
        """All leases of other living processes; the files of dead ones are counted in first."""
        total, died = self._lease.others()
        if died:
            self._mending.reconcile()
        return total
