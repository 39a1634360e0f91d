"""What a listing could not read, compared with what a dataset wants: it is named, and never left out in silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai4os_data.datasets.index import enumerated
from ai4os_data.datasets.patterns import Pattern
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ai4os_data.stores import Unreadable


def check_pattern(unreadable: Sequence[Unreadable], pattern: str | Sequence[str], location: str) -> None:
    """Check that nothing unreadable is a sample of a pattern, or may hold one. The rest is named in the log.

    Raises:
        StorageError: something is; it is of the kind of the first one's error.
    """
    if not unreadable:
        return
    samples = Pattern(pattern)
    wanted = [
        one
        for one in unreadable
        if (one.is_folder is not True and samples(_plain(one.key)))
        or (one.is_folder is not False and samples.reaches(_plain(one.key)))
    ]
    if wanted:
        raise type(wanted[0].error)(
            f"{pattern!r} may match what cannot be read: {enumerated(str(one.error) for one in wanted)}. A dataset "
            "without it would look complete, so mend this on the storage, or give a pattern that does not reach it "
            "(several in a list, such as ['cat/**/*.jpg', 'dog/**/*.jpg'])"
        )
    tell_once(f"{location}: left out, since it cannot be read: {enumerated(str(one.error) for one in unreadable)}")


def check_keys(unreadable: Iterable[Unreadable], keys: Iterable[str]) -> None:
    """Check that no key of some is unreadable, or lies in an unreadable folder.

    Raises:
        StorageError: one is, or does.
    """
    by_key = {one.key: one for one in unreadable}
    for key in keys if by_key else ():
        parts = key.split("/")
        for depth in range(1, len(parts) + 1):
            one = by_key.get("/".join(parts[:depth]))
            if one is not None:
                raise type(one.error)(f"{key!r} cannot be read: {one.error}")


def _plain(key: str) -> str:
    """A key without its empty parts: S3 has keys such as ``a//b.jpg``, which somebody means by ``a/b.jpg``."""
    return "/".join(part for part in key.split("/") if part)
