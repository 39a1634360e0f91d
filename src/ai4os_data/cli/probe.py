"""A probe of 1 MiB: written, read back and compared; it is removed again, with the folders that it took."""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.cli.finding import Finding
from ai4os_data.cli.visits import visiting

if TYPE_CHECKING:
    from ai4os_data.stores import Store

_PROBE = ".ai4os-data-doctor-"
_BYTES = 2**20


def bandwidth_of(store: Store) -> Finding:
    """How fast one file goes there and comes back.

    Raises:
        IntegrityError: what came back is not what was written.
        StorageError: it cannot be written or read.
    """
    key, data = f"{_PROBE}{secrets.token_hex(8)}", secrets.token_bytes(_BYTES)
    with visiting(store):
        try:
            times = [time.perf_counter()]
            store.write(key, data)
            times.append(time.perf_counter())
            back = store.read(key)
            times.append(time.perf_counter())
        finally:
            with suppress(errors.NotFoundError):
                store.delete(key)
    if back != data:
        raise errors.IntegrityError("what was read back is not what was written")
    up, down = (_BYTES / (end - begin) / 2**20 for begin, end in pairwise(times))
    return Finding("good", "write, read", f"{up:.1f} MiB/s up, {down:.1f} MiB/s down with one file of 1 MiB")
