"""What an open file says of itself: its file system, path and mode, under the names that fsspec's own files have.

``tar://`` and pandas infer the compression from the path, pyarrow the direction from the mode, audio libraries the
format from the name.
"""

from __future__ import annotations

from typing import Any


class Opened:
    """Mixed into the files that a file system opens, before the class that reads or writes.

    Attributes:
        fs: the file system that opened it.
        path: where it is in that file system.
    """

    fs: Any
    path: str
    _mode: str

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    @property
    def mode(self) -> str:
        """The mode that it was opened with, ``"rb"``, ``"wb"`` or ``"xb"``."""
        return self._mode

    @property
    def full_name(self) -> str:
        """The path as a location that a dataset takes."""
        return str(self.fs.unstrip_protocol(self.path))

    @property
    def loc(self) -> int:
        """The position that is read or written next."""
        return int(self.tell())  # type: ignore[attr-defined]  # of the class that reads or writes


class OpenedToRead(Opened):
    """A file that is read: what was known of it when it was opened.

    Attributes:
        details: as the file system's ``info`` gives it.
        size: its length in bytes.
    """

    _mode = "rb"
    details: dict[str, Any]
    size: int

    def _describe(self, fs: Any, details: dict[str, Any]) -> None:
        self.fs, self.path, self.details, self.size = fs, details["name"], details, details["size"]

    def info(self) -> dict[str, Any]:
        """What the file system said of it when it was opened."""
        return self.details
