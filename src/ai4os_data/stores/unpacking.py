"""A zip is taken apart as it comes: each member goes into a body of its own, and is given out once it is whole.

It is read from its beginning, where each member says what it is, and never from the directory at its end: a cut-off
archive of archives ends in the directory of another one. With the listed size it is known where a member ends; what
follows it there, its CRC-32 and size, shows that this is so
(https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3).
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from ai4os_data.http import Body, NoBody

if TYPE_CHECKING:
    from collections.abc import Callable

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_DESCRIPTORS = (struct.Struct("<4sIQQ"), struct.Struct("<4sIII"))  # of zip64, and of the plain form
_MEMBER, _AFTER, _DIRECTORY = b"PK\3\4", b"PK\7\10", b"PK\1\2"
_ENCRYPTED, _SIZE_FOLLOWS = 0x0001, 0x0008
_STORED = 0


B = TypeVar("B", bound=Body)


@dataclass(frozen=True, slots=True)
class Member(Generic[B]):
    """What is to be done with a member.

    Attributes:
        size_bytes: its listed length; 0 for a folder.
        body: takes its bytes; None if nobody wants them.
    """

    size_bytes: int
    body: B | None


class Unpacker(NoBody, Generic[B]):
    """A body that takes a zip of stored members apart.

    Args:
        choose: says what is to be done with the member of a name, without slashes at its beginning; a folder's name
            ends with one. None ends the reading, since it is unknown how long the member is.

    Attributes:
        came: the names and bodies of the members whose end was seen, in order; None instead of a body whose CRC is
            another. The caller takes them out.
        is_over: whether nothing of what follows is read: the members are through, or it is unclear where the next
            one begins.
        is_complete: whether it ended where the members do.
    """

    def __init__(self, choose: Callable[[bytes], Member[B] | None]) -> None:
        super().__init__()
        self.came: deque[tuple[bytes, B | None]] = deque()
        self._choose = choose
        self._body: B | None = None
        self._begin()

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        super().write(chunk)
        view = memoryview(chunk)
        while view and not self.is_over:
            view = self._next(view)

    def restart(self) -> None:
        """Forget what came so far, but for the members that are whole."""
        super().restart()
        self.drop()
        self._begin()

    @property
    def is_none(self) -> bool:
        """Whether what has come is no archive."""
        return self.is_over and not (self.is_complete or self._has_begun)

    @property
    def beyond_bytes(self) -> int:
        """How many bytes have come that could not be read."""
        return self.length - self._end_bytes if self.is_over and not self.is_complete else 0

    def drop(self) -> None:
        """Forget the member that is not yet whole."""
        body, self._body = self._body, None
        if body is not None:
            body.restart()

    def _begin(self) -> None:
        self.is_over = self.is_complete = self._has_begun = False
        self._end_bytes = 0
        self._held = bytearray()
        self._next: Callable[[memoryview], memoryview] = self._take_head

    def _hold(self, view: memoryview, size_bytes: int) -> memoryview:
        """Add to what is held, up to a size; what is left of the view."""
        lacking = size_bytes - len(self._held)
        self._held += view[:lacking]
        return view[lacking:]

    def _end(self, *, is_complete: bool = False) -> None:
        self.is_over, self.is_complete = True, is_complete
        self._end_bytes = self.length
        self.drop()

    def _take_head(self, view: memoryview) -> memoryview:
        """What a member says before its bytes."""
        held = self._held
        if len(held) < _LOCAL.size:
            view = self._hold(view, _LOCAL.size)
            if len(held) >= len(_MEMBER) and held[:4] != _MEMBER:
                self._end(is_complete=held[:4] == _DIRECTORY)
            if len(held) < _LOCAL.size:
                return view
        _, _, flags, method, _, _, crc, size, full_size, name_length, extra_length = _LOCAL.unpack_from(held)
        length = _LOCAL.size + name_length + extra_length
        view = self._hold(view, length)
        if len(held) == length and not self.is_over:
            name = bytes(held[_LOCAL.size :][:name_length]).lstrip(b"/")
            member = self._choose(name) if method == _STORED and not flags & _ENCRYPTED else None
            has_end = bool(flags & _SIZE_FOLLOWS)
            is_as_listed = member is not None and size == full_size == member.size_bytes
            if member is None or not (has_end or is_as_listed or name.endswith(b"/")):
                self._end()
            else:
                self._open(name, member, None if has_end else crc)
        return view

    def _open(self, name: bytes, member: Member[B], crc: int | None) -> None:
        self._name, self._size_bytes, self._body = name, member.size_bytes, member.body
        self._promised_crc, self._crc, self._left_bytes = crc, 0, member.size_bytes
        self._has_begun = True
        self._held.clear()
        self._next = self._take_data
        self._pass_on()

    def _take_data(self, view: memoryview) -> memoryview:
        """Bytes of a member."""
        piece = view[: self._left_bytes]
        self._crc = zlib.crc32(piece, self._crc)
        if self._body is not None:
            self._body.write(bytes(piece))
        self._left_bytes -= len(piece)
        self._pass_on()
        return view[len(piece) :]

    def _pass_on(self) -> None:
        """Turn to what follows the bytes of a member, once they are all there."""
        if self._left_bytes == 0:
            if self._promised_crc is None:
                self._next = self._take_end
            else:
                self._close(self._promised_crc)

    def _take_end(self, view: memoryview) -> memoryview:
        """The CRC that follows a member of that size. The plain form is shorter than what follows it anyway."""
        view = self._hold(view, _DESCRIPTORS[0].size)
        if len(self._held) == _DESCRIPTORS[0].size:
            for form in _DESCRIPTORS:
                mark, crc, size, full_size = form.unpack_from(self._held)
                if mark == _AFTER and size == full_size == self._size_bytes:
                    del self._held[: form.size]
                    self._close(crc)
                    return view
            self._end()
        return view

    def _close(self, crc: int) -> None:
        if not self._name.endswith(b"/"):
            self.came.append((self._name, self._body if crc == self._crc else None))
            if crc != self._crc:
                self.drop()
        self._body = None
        self._next = self._take_head
