"""Names that servers refuse to store, and why: their answers (400, 403, 404, 500) do not say that it is the name."""

from __future__ import annotations

from ai4os_data import errors
from ai4os_data.http import NO_ANSWER

_MOST_BYTES = 250  # of the name, not of the path: a column of Nextcloud's database
_KEPT_ENDINGS = (".part", ".filepart")
_WINDOWS = frozenset(':*?"<>|')
_NOT_OF_A_NAME = (*NO_ANSWER, errors.AuthenticationError, errors.LocationError, errors.OutOfSpaceError)


def check_not_the_name(location: str, key: str, error: errors.StorageError) -> None:
    """Raise an error about the name, if the server's answer to a PUT or MKCOL may well mean that it refuses the name.

    Raises:
        NameRefusedError: it is.
    """
    if isinstance(error, _NOT_OF_A_NAME):
        return
    why = why_refused(key, is_forbidden=isinstance(error, errors.PermissionDeniedError))
    if why is not None:
        raise errors.NameRefusedError(
            f"{location}: {key!r} cannot be written: the server refuses the name, since {why}. Choose another name. "
            f"({error})"
        ) from error


def why_refused(key: str, *, is_forbidden: bool = False) -> str | None:
    """What is wrong with a name of a file or of a folder above it; None if nothing is known to be.

    Args:
        key: the names, with ``/`` between them.
        is_forbidden: whether the server says that it is not allowed (403): that may have many other reasons, so only a
            name that is refused nearly everywhere is taken for the reason.
    """
    for part in key.split("/"):
        why = _why(part) or (None if is_forbidden else _why_elsewhere(part))
        if why is not None:
            return f"{part if len(part) <= _MOST_BYTES else part[:40] + '…'!r} {why}"
    return None


def _is_utf_8(name: str) -> bool:
    """Whether the bytes of a name are UTF-8; those that are not stand in it as surrogates (PEP 383)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_utf_8(location: str, key: str) -> None:
    """Refuse a name that a Nextcloud would store as another one: it reads what is no UTF-8 as Latin-1.

    Raises:
        NameRefusedError: the name is no UTF-8.
    """
    if not _is_utf_8(key):
        raise errors.NameRefusedError(
            f"{location}: {key!r} cannot be written: it is no UTF-8, and a Nextcloud would store it under another "
            "name. Choose another name."
        )


def _why(name: str) -> str | None:
    if name.lower().endswith(_KEPT_ENDINGS):
        return f"ends with {name[name.rindex('.') :]!r}, which Nextcloud keeps for uploads that are under way"
    if name.lower().startswith(".ht"):
        return "is a name that web servers keep for their own files"
    if "\\" in name:
        return "has a backslash in it, which Nextcloud does not take"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return "has a line break or another control character in it"
    size_bytes = len(name.encode("utf-8", "surrogateescape"))
    if size_bytes > _MOST_BYTES:
        return f"is {size_bytes} bytes long, and most servers take {_MOST_BYTES}"
    return None if _is_utf_8(name) else "is no UTF-8"


def _why_elsewhere(name: str) -> str | None:
    if not _WINDOWS.isdisjoint(name):
        return f"has one of {' '.join(sorted(_WINDOWS))} in it, which a server may refuse for the sake of Windows"
    if name != name.strip() or name.endswith("."):
        return "begins or ends with a blank, or ends with a dot, which a server may refuse for the sake of Windows"
    return None
