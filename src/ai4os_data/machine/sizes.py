"""Sizes as people write and read them: "20GiB"."""

from __future__ import annotations

import re

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?(b?)\s*", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def is_size(text: object) -> bool:
    """Whether a text is a size such as ``"20GiB"``."""
    return isinstance(text, str) and _SIZE.fullmatch(text) is not None


def parse_size(text: str) -> int:
    """Bytes from a text.

    ``"20GiB"``, ``"20Gi"`` and ``"20G"`` are 20 * 1024**3 bytes: a bare letter is binary, as in rclone. ``"20GB"`` and
    ``"20 GB"`` are 20 * 1000**3, as disks are sold, which is 18.6 GiB.

    Raises:
        ValueError: it is no size.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a size: write a number of bytes, '20GiB' or '20G' (20 * 1024**3 bytes, as rclone "
            "counts), '20GB' (20 * 1000**3 bytes, 18.6 GiB), or 'auto'"
        )
    number, letter, binary, byte = match.groups()
    base = 1000 if letter and byte and not binary else 1024
    return int(float(number) * base ** _POWERS[(letter or "").lower()])


def shown_size(size_bytes: int) -> str:
    """A size for people to read: in GiB, in MiB below one GiB, in KiB below one MiB."""
    if size_bytes >= 2**30:
        return f"{size_bytes / 2**30:.1f} GiB"
    return f"{size_bytes / 2**20:.0f} MiB" if size_bytes >= 2**20 else f"{size_bytes / 2**10:.0f} KiB"
