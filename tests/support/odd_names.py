"""Names that people give their files, and what a server makes of the few that it cannot keep."""

from __future__ import annotations

from typing import NamedTuple

from ai4os_data import errors

NAMES = {
    "space": "a b.bin",
    "spaces around": " a ",
    "hash": "hash#1",
    "percent-41": "percent%41",
    "percent alone": "100%",
    "percent-20": "a%20b",
    "plus": "a+b",
    "question": "what?x=1",
    "ampersand": "a&b",
    "semicolon": "a;b=1",
    "equals": "a=b",
    "quotes": "quo'te\"d",
    "backslash": "back\\slash",
    "colon": "12:30:00",
    "glob": "[a]*{b}!",
    "angle": "<b>&amp;",
    "tilde": "~user",
    "hidden": ".hidden",
    "newline": "two\nlines",
    "nfc": "caf\u00e9",
    "nfd": "cafe\u0301",
    "not UTF-8": "Gr\udcf6\udcdfe.bin",
    "emoji": "\U0001f33b.jpg",
    "200 bytes": "n" * 196 + ".bin",
    "200 bytes of non-ASCII": "\u00e9" * 100,
}


class Cannot(NamedTuple):
    """What comes of a name at a place that cannot keep it, and why it cannot."""

    error: type[Exception]
    reason: str


_REFUSES = ("nextcloud-34", "nextcloud-34-legacy", "nextcloud-29", "nextcloud-29-legacy", "mount")
CANNOT = {
    ("rclone", NAMES["newline"]): Cannot(
        errors.LocationError,
        "rclone shows control characters as symbols (U+240A): what is made under one name is looked for under another",
    ),
    ("wsgidav", NAMES["not UTF-8"]): Cannot(errors.ServerError, "it hangs up on a name that is no UTF-8"),
    **{
        (place, NAMES[name]): Cannot(errors.LocationError, "Nextcloud refuses such a name")
        for place in _REFUSES
        for name in ("newline", "not UTF-8", "backslash")
    },
}
MERGES_NORMAL_FORMS = {"rclone", "mount"}
"""Where a file cannot be written beside one whose name is the same in Unicode: rclone's VFS takes the two for one."""
