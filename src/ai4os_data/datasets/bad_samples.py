"""A bad sample raises an error that names it, or, under ``on_error="skip"``, is logged and left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai4os_data import errors
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from ai4os_data.telemetry import Counters

# Errors of one file. Any other error is the storage's, and never skipped.
_OF_ONE_FILE = (
    errors.NotFoundError,
    errors.ChangedError,
    errors.IntegrityError,
    errors.PermissionDeniedError,
    errors.LockedError,
    errors.ProtocolError,
    errors.PreparationError,
)


class BadSamples:
    """Raises errors for the bad samples of a dataset, or skips them.

    Args:
        location: that of the dataset.
        skips: whether they are left out.
        counters: know what any process has logged already.
    """

    def __init__(self, location: str, counters: Counters, *, skips: bool) -> None:
        self._location = location
        self._counters = counters
        self._skips = skips

    def of_sample(self, index: int, key: str, error: Exception) -> errors.SampleError:
        """The error that says which sample is bad."""
        said = str(error) if isinstance(error, errors.StorageError) else f"{type(error).__name__}: {error}"
        message = f"sample {index} ({key!r}) of {self._location}: {said}"
        return errors.SampleError(message, key=key, location=self._location, index=index)

    def of_file(self, key: str, error: errors.StorageError) -> errors.SampleError:
        """The error that says which file is bad."""
        return errors.SampleError(f"{key!r} of {self._location}: {error}", key=key, location=self._location)

    def skip(self, failure: errors.SampleError, cause: Exception) -> None:
        """Leave a sample out, and log that once, over all workers and epochs.

        Raises:
            SampleError: the failure, if samples are not left out, or if the storage as a whole is at fault.
        """
        is_of_one_file = isinstance(cause, _OF_ONE_FILE) or not isinstance(cause, errors.StorageError)
        if not self._skips or not is_of_one_file:
            raise failure from cause
        if self._counters.is_first(f"skipped {failure.key}"):
            tell_once(f"skipped: {failure}")

    def nothing_left(self, index: int, key: str) -> errors.SkippedError:
        """The error if every sample of a request is bad."""
        message = (
            f"{self._location}: every sample of this request is bad (last: {index}, {key!r}); the log says why. "
            "StorageDataLoader drops such batches; elsewhere catch SkippedError"
        )
        return errors.SkippedError(message, key=key, location=self._location, index=index)
