"""The bytes of a state: hashed while they are written, and loaded only after their hash was checked."""

from __future__ import annotations

import hashlib
import os
import pickle
from typing import TYPE_CHECKING, Any

import torch

from ai4os_data import errors
from ai4os_data.checkpoint.manifest import FileFacts

if TYPE_CHECKING:
    from pathlib import Path

_PIECE_BYTES = 4 * 1024 * 1024
_SMALL_BYTES = 64 * 1024  # smaller pieces are written together


def write_state(state: Any, path: Path) -> FileFacts:
    """Serialise a state into a new file, and fsync it."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        sink = _HashingSink(descriptor)
        torch.save(state, sink)  # type: ignore[arg-type]  # it writes, and no more is asked of it
        sink.finish()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return FileFacts(sink.size_bytes, sink.sha256())


def load_state(path: Path, *, map_location: Any = "cpu", weights_only: bool = True) -> Any:
    """The state in a file whose sha256 was checked.

    Errors of torch about a missing device, or about memory, are raised as they are.

    Raises:
        IntegrityError: its bytes are those that were written, but cannot be loaded as a state.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=weights_only)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        if isinstance(error, RuntimeError) and _is_sound(path):
            raise
        raise errors.IntegrityError(f"{path.name} cannot be loaded: {error}") from error


def _is_sound(path: Path) -> bool:
    """Whether a file can be loaded when its tensors need neither memory nor a device."""
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        return False
    return True


class _HashingSink:
    """A file that can only be written, from the first byte to the last.

    An error of the disk is kept for `finish`: torch would replace it by its own.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._digest = hashlib.sha256()
        self._small = bytearray()
        self._error: OSError | None = None
        self.size_bytes = 0

    def write(self, content: bytes | memoryview) -> int:
        """Take all of it."""
        view = memoryview(content).cast("B")
        self.size_bytes += len(view)
        if len(view) < _SMALL_BYTES:
            self._small += view
        else:
            self._flush_small()
            self._put(view)
        if len(self._small) >= _PIECE_BYTES:
            self._flush_small()
        return len(view)

    def flush(self) -> None:
        """Do nothing; torch calls it."""

    def finish(self) -> None:
        """Write what is held back, and raise what went wrong."""
        self._flush_small()
        if self._error is not None:
            raise self._error

    def sha256(self) -> str:
        """The sha256 of all that was written."""
        return self._digest.hexdigest()

    def _flush_small(self) -> None:
        self._put(memoryview(bytes(self._small)))
        self._small.clear()

    def _put(self, view: memoryview) -> None:
        for begin in range(0, len(view), _PIECE_BYTES):
            piece = view[begin : begin + _PIECE_BYTES]
            self._digest.update(piece)
            try:
                while piece and self._error is None:
                    piece = piece[os.write(self._descriptor, piece) :]
            except OSError as error:
                self._error = error
