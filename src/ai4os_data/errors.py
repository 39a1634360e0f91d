"""Every error that this library raises on purpose, and what a caller may catch it as.

StorageError
├── LocationError            (ValueError)         a location that cannot be understood, or names nothing
│   └── NameRefusedError     (OSError, EINVAL)    the server stores nothing under this name
├── RemoteError              (LookupError)        no such remote, or one that cannot be used
├── AuthenticationError      (PermissionError)    401: the server does not accept the credentials
├── PermissionDeniedError    (PermissionError)    403: known, but not allowed
├── NotFoundError            (FileNotFoundError)
├── OutOfSpaceError          (OSError, ENOSPC)    a full disk, 507, a quota
├── StorageGoneError         (OSError, ENOTCONN)  the mount under a location is dead
├── OpenFilesError           (OSError, EMFILE)    this process may open no more files and connections
├── ServerError              (OSError, EIO)       an answer that says the server cannot do it
│   ├── ServerUnavailableError (ConnectionError)  down, refused, reset, or busy for too long
│   │   └── TLSError                              its certificate cannot be verified
│   ├── DeadlineError        (TimeoutError)       a deadline of ours has passed
│   ├── ThrottledError                            429 for longer than we wait
│   ├── LockedError                               423 for longer than we wait
│   └── ProtocolError                             an answer that breaks the protocol
├── ChangedError                                  a file is no longer the version that was listed
├── IntegrityError                                bytes that fail their check
├── CacheError                                    a cache directory that cannot be used
│   └── CacheLimitError      (ValueError)         a limit too small to work with
├── PreparationError                              the user's `prepare` failed on a file
├── CheckpointError                               a checkpoint that cannot be saved or restored
│   ├── StateError           (TypeError)          a state holds what cannot be saved plainly
│   ├── StateMismatchError   (LookupError)        what is to be loaded into does not fit what was saved
│   ├── DurabilityError      (ValueError)         a level that the store cannot reach
│   ├── DroppedError                              a newer checkpoint took the place of one not yet sent
│   ├── LostError                                 a checkpoint was removed from the spool before it had arrived
│   └── DamagedError                              there are checkpoints, and none of them is intact
├── EmptyDatasetError        (ValueError)         nothing matches
│   └── EmptyClassError      (FileNotFoundError)  a class has no sample
└── SampleError                                   one sample failed: .key, .location, .index
    └── SkippedError                              it was to be skipped, and nothing else is there to be given

Each can be made from its message alone, so that an error crosses process borders (pickle, a
DataLoader's worker) as the type that it is.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class StorageError(Exception):
    """Something between the caller and the stored bytes went wrong.

    Attributes:
        status: the HTTP status that it stands for; None where no answer of a server led to it.
    """

    error_number: ClassVar[int | None] = None
    status: int | None = None

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        if self.error_number is not None:
            self.errno: int | None = self.error_number


class LocationError(StorageError, ValueError):
    """A location cannot be understood, or there is nothing at it."""


class NameRefusedError(LocationError, OSError):
    """The server stores nothing under this name: ``.htaccess``, ``x.part``, a line break, 251 bytes and more."""

    error_number = errno.EINVAL


class RemoteError(StorageError, LookupError):
    """A remote is not configured, or its configuration cannot be used."""


class AuthenticationError(StorageError, PermissionError):
    """The server does not accept the credentials (401)."""

    error_number = errno.EACCES


class PermissionDeniedError(StorageError, PermissionError):
    """The credentials are good, but this is not allowed with them (403)."""

    error_number = errno.EPERM


class NotFoundError(StorageError, FileNotFoundError):
    """There is no such file on the store."""

    error_number = errno.ENOENT


class OutOfSpaceError(StorageError, OSError):
    """A disk or a quota is full."""

    error_number = errno.ENOSPC


class StorageGoneError(StorageError, OSError):
    """The mount under a location answers no more."""

    error_number = errno.ENOTCONN


class OpenFilesError(StorageError, OSError):
    """This process has as many files and connections open as it may."""

    error_number = errno.EMFILE


class ServerError(StorageError, OSError):
    """The server answered that it cannot, or did not answer at all."""

    error_number = errno.EIO


class ServerUnavailableError(ServerError, ConnectionError):
    """The server is down, unreachable, or busy for longer than we wait.

    Attributes:
        retry_after_s: the pause that the server asked for, where it did.
    """

    retry_after_s: float | None = None
    error_number = errno.ECONNREFUSED


class TLSError(ServerUnavailableError):
    """The server's certificate cannot be verified."""


class DeadlineError(ServerError, TimeoutError):
    """A deadline of ours passed before the answer was complete."""

    error_number = errno.ETIMEDOUT


class ThrottledError(ServerError):
    """The server keeps asking us to slow down (429)."""

    error_number = errno.EAGAIN


class LockedError(ServerError):
    """The file stays locked on the server (423)."""

    error_number = errno.EBUSY


class ProtocolError(ServerError):
    """The server's answer breaks the protocol, so its bytes are not trusted."""

    error_number = errno.EPROTO


class ChangedError(StorageError):
    """A file on the store is no longer the version that was asked for."""


class IntegrityError(StorageError):
    """Bytes failed their length or checksum."""


class CacheError(StorageError):
    """A cache directory cannot be used."""


class CacheLimitError(CacheError, ValueError):
    """A cache limit is too small to work with, or cannot be understood."""


class EmptyDatasetError(StorageError, ValueError):
    """Nothing at a location matches."""


class EmptyClassError(EmptyDatasetError, FileNotFoundError):
    """A class has no sample, so that leaving it out would move the numbers of others."""

    error_number = errno.ENOENT


class PreparationError(StorageError):
    """The user's ``prepare`` failed on a file, or gave something else than bytes."""


class CheckpointError(StorageError):
    """A checkpoint cannot be saved or restored."""


class StateError(CheckpointError, TypeError):
    """A state holds something that is neither plain nor has a ``state_dict()``."""


class StateMismatchError(CheckpointError, LookupError):
    """What a checkpoint is to be loaded into does not fit what was saved."""


class DurabilityError(CheckpointError, ValueError):
    """The store cannot reach the level that was asked for."""


class DroppedError(CheckpointError):
    """A checkpoint was dropped before its upload began, because a newer one had come."""


class LostError(CheckpointError):
    """The files of a checkpoint were removed from the spool by somebody else, before they had arrived."""


class DamagedError(CheckpointError):
    """There are checkpoints, and none of them is intact."""


class SampleError(StorageError):
    """One sample could not be read, decoded or transformed.

    Attributes:
        key: the sample's key below the dataset's location; None after a way through a DataLoader's worker.
        location: the dataset's location, without secrets.
        index: the sample's index in the dataset.
    """

    def __init__(
        self,
        message: str = "",
        *,
        key: str | None = None,
        location: str | None = None,
        index: int | None = None,
    ) -> None:
        super().__init__(message)
        self.key = key
        self.location = location
        self.index = index

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the attributes across processes."""
        state = {"key": self.key, "location": self.location, "index": self.index}
        return type(self), (str(self),), state


class SkippedError(SampleError):
    """A bad sample is skipped, and nothing is left to be given: it was asked for alone, or all of its batch are bad."""
