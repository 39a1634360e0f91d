"""A user's ``prepare`` changes a file once it has come; what it makes is cached under a name of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ai4os_data import errors
from ai4os_data.cache.fingerprints import fingerprint

Prepare = Callable[[bytes], bytes]


class Preparation(NamedTuple):
    """A user's function from the bytes of a file to those that are kept and given out.

    Attributes:
        function: the function.
        name: distinguishes its results from those of other functions.
    """

    function: Prepare
    name: str

    @classmethod
    def of(cls, prepare: Prepare | None, version: str | int | None) -> Preparation | None:
        """The preparation that ``prepare=`` and ``prepare_version=`` mean; by default its name follows from its code.

        Raises:
            ValueError: the function holds something that cannot be told from another of its kind.
        """
        if prepare is None:
            return None
        return cls(prepare, str(version) if version is not None else fingerprint(prepare))

    def apply(self, data: bytes, what: str) -> bytes | errors.PreparationError:
        """The prepared bytes, or what went wrong.

        Args:
            data: the content of a file.
            what: what errors call the file.
        """
        try:
            prepared: object = self.function(data)
        except Exception as error:  # noqa: BLE001  it may raise anything, and it is about this file alone
            failure = errors.PreparationError(f"{what} failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            return failure
        if not isinstance(prepared, (bytes, bytearray, memoryview)):
            return errors.PreparationError(f"{what} gave {type(prepared).__name__}; it has to turn bytes into bytes")
        return bytes(prepared)
