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
├── OverwriteError       (FileExistsError)        files are in the way of a local copy
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
    └── SkippedError                              every sample of a request is bad, and skipped

Each can be made from its message alone, so that an error crosses process borders (pickle, a
DataLoader's worker) as the type that it is.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class StorageError(Exception):
    """Something between the caller and the stored bytes went wrong. The message says what, where, and what to do.

    Attributes:
        status: the HTTP status that it stands for; None if no answer of a server led to it.
    """

    error_number: ClassVar[int | None] = None
    status: int | None = None

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        if self.error_number is not None:
            self.errno: int | None = self.error_number


class LocationError(StorageError, ValueError):
    """A location cannot be understood, or there is nothing at it.

    The message shows names like it: correct the spelling.
    """


class NameRefusedError(LocationError, OSError):
    """The server stores nothing under this name: ``.htaccess``, ``x.part``, a line break, 251 bytes and more.

    Or the local disk of a copy cannot hold it. Choose another.
    """

    error_number = errno.EINVAL


class RemoteError(StorageError, LookupError):
    """A remote is not configured, or its configuration cannot be used. The message names those that are: correct it."""


class AuthenticationError(StorageError, PermissionError):
    """The server does not accept the credentials (401).

    Link the storage again, or correct the password in ``rclone.conf``.
    """

    error_number = errno.EACCES


class PermissionDeniedError(StorageError, PermissionError):
    """The credentials are good, but this is not allowed with them (403).

    Choose a folder of your own, or ask its owner.
    """

    error_number = errno.EPERM


class NotFoundError(StorageError, FileNotFoundError):
    """There is no such file on the store. If it was removed, list again."""

    error_number = errno.ENOENT


class OutOfSpaceError(StorageError, OSError):
    """A disk or a quota is full; the message says which. Make room there."""

    error_number = errno.ENOSPC


class StorageGoneError(StorageError, OSError):
    """The mount under a location does not answer any more.

    Restart the deployment, or read and write ``rshare:path``.
    """

    error_number = errno.ENOTCONN


class OpenFilesError(StorageError, OSError):
    """This process has as many files and connections open as it may. Raise ``ulimit -n``."""

    error_number = errno.EMFILE


class ServerError(StorageError, OSError):
    """The server answered that it cannot, or did not answer at all. Try again later; its log has the reason."""

    error_number = errno.EIO


class ServerUnavailableError(ServerError, ConnectionError):
    """The server is down, unreachable, or busy for longer than we wait. Try later, or wait longer (``outage_s=``).

    Attributes:
        retry_after_s: the pause that the server asked for, if it did.
    """

    retry_after_s: float | None = None
    error_number = errno.ECONNREFUSED


class TLSError(ServerUnavailableError):
    """The server's certificate cannot be verified.

    Set ``SSL_CERT_FILE`` to its authority, or check date and address.
    """


class DeadlineError(ServerError, TimeoutError):
    """A deadline of ours passed before the answer was complete. Try again, or give a longer one."""

    error_number = errno.ETIMEDOUT


class ThrottledError(ServerError):
    """The server keeps asking us to slow down (429). Ask nothing for some minutes, then use fewer processes."""

    error_number = errno.EAGAIN


class LockedError(ServerError):
    """The file stays locked on the server (423). Wait: Nextcloud keeps a dead lock for up to an hour."""

    error_number = errno.EBUSY


class ProtocolError(ServerError):
    """The server's answer breaks the protocol, so its bytes are not trusted.

    Check the address, and proxies on the way.
    """

    error_number = errno.EPROTO


class ChangedError(StorageError):
    """A file on the store is no longer the version that was asked for. List again, or open it again."""


class IntegrityError(StorageError):
    """Bytes failed their length or checksum. Do not train from them: the file is damaged there, or on the way."""


class CacheError(StorageError):
    """A cache directory cannot be used. Give another one on a local disk, as ``cache=`` or ``AI4OS_DATA_CACHE``."""


class CacheLimitError(CacheError, ValueError):
    """A cache limit is too small to work with, or cannot be understood. Write it as ``"20GiB"``."""


class EmptyDatasetError(StorageError, ValueError):
    """Nothing at a location matches. Check the pattern; the message shows one that matches, if it finds one."""


class EmptyClassError(EmptyDatasetError, FileNotFoundError):
    """A class has no sample, so that leaving it out would move the numbers of others.

    Give ``allow_empty=True`` to keep it.
    """

    error_number = errno.ENOENT


class PreparationError(StorageError):
    """The user's ``prepare`` failed on a file, or gave something else than bytes. The message names the file."""


class OverwriteError(StorageError, FileExistsError):
    """Files are in the way that a local copy did not write, or that were changed since. The message names them.

    Move them away, or give ``overwrite=True``.
    """

    error_number = errno.EEXIST


class CheckpointError(StorageError):
    """A checkpoint cannot be saved or restored. The message says why, and what to do."""


class StateError(CheckpointError, TypeError):
    """A state holds something that is neither plain nor has a ``state_dict()``.

    The message names where: save a plain form.
    """


class StateMismatchError(CheckpointError, LookupError):
    """What a checkpoint is to be loaded into does not fit what was saved.

    Build it as it was, or restore without ``into``.
    """


class DurabilityError(CheckpointError, ValueError):
    """The store cannot reach the level that was asked for. Ask for ``durability="best"``, or save over WebDAV."""


class DroppedError(CheckpointError):
    """A checkpoint was dropped before its upload began, because a newer one had come. There is nothing to do."""


class LostError(CheckpointError):
    """Somebody removed a checkpoint from the spool before it had arrived.

    Give ``spool=`` a directory that nothing cleans.
    """


class DamagedError(CheckpointError):
    """There are checkpoints, and none of them is intact. Look at the storage; to begin anew, move the run away."""


class SampleError(StorageError):
    """One sample could not be read, decoded or transformed. ``on_error="skip"`` leaves such samples out.

    Attributes:
        key: the sample's key below the dataset's location; None if the error came from a DataLoader's worker.
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
    """Every sample of a request is bad and skipped. `StorageDataLoader` drops such batches; elsewhere catch it."""
