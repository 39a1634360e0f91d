"""A file that has come is compared with its listing: another version is used only if ``on_drift`` allows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from ai4os_data import errors, telemetry
from ai4os_data.cache.entries import digest
from ai4os_data.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai4os_data.stores import Entry

Drift = Literal["error", "warn", "refresh"]


class WantedFile(NamedTuple):
    """A file that is to be read.

    Attributes:
        entry: the file, as it was listed.
        as_stored: whether it is wanted without ``prepare``.
    """

    entry: Entry
    as_stored: bool = False

    @property
    def key(self) -> str:
        """Its key."""
        return self.entry.key

    @property
    def form(self) -> tuple[str, bool]:
        """What distinguishes it from other files of its location, and from the same file in the other form."""
        return self.entry.key, self.as_stored

    @property
    def size_bytes(self) -> int:
        """Its size, as listed."""
        return self.entry.size_bytes


class Versions:
    """Newer versions of a location's files, found since they were listed.

    Args:
        location: where they are.
        on_drift: what to do if a file has another version than the listed one: raise, warn, or use it.
        counters: where changed files are counted.
    """

    def __init__(self, location: str, on_drift: Drift, counters: telemetry.Counters) -> None:
        self.on_drift: Drift = on_drift
        self.listing: str | None = None
        self._location = location
        self._counters = counters
        self._newer: dict[str, Entry] = {}

    def begin(self, listing: str, newer: Mapping[str, Entry]) -> None:
        """Compare with this listing from now on.

        Args:
            listing: its name. Newer versions that were found hold for this listing alone: a later one may have the old
                version again.
            newer: files that are known to have changed since, by their keys.
        """
        self.listing = listing
        self._newer = dict(newer)

    def current(self, entry: Entry) -> Entry:
        """The file as it is now, as far as this process knows."""
        return self._newer.get(entry.key, entry) if self._newer else entry

    def link(self, name: str) -> str | None:
        """The digest under which the newer version of a file is noted; None if no newer version may be used."""
        return None if self.listing is None or self.on_drift == "error" else digest("newer", name, self.listing)

    def check(self, listed: Entry, served: Entry) -> errors.ChangedError | None:
        """Compare what was served with what was listed.

        Returns:
            The error to raise; None if the served version may be used.
        """
        if served is listed or listed.is_same_version(served):
            return None
        what = (
            f"{self._location}: {listed.key!r} is not the version that was listed: {listed.size_bytes:,} bytes "
            f"then, {served.size_bytes:,} now"
        )
        if self.on_drift == "error":
            return errors.ChangedError(f"{what}. Open the dataset again, call refresh(), or choose on_drift='warn'")
        self._counters.row[telemetry.CHANGED] += 1
        if self.on_drift == "warn" and self._counters.is_first("a file changed"):  # in any process
            log.warning(
                "%s. The new version is used. Other files that changed are not logged: stats()['changed'] counts them, "
                "refresh() lists anew",
                what,
            )
        self._newer[listed.key] = served
        return None
