"""Names that people give their files, and the few that a server cannot serve."""

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
    "emoji": "\U0001f33b.jpg",
    "200 bytes": "n" * 196 + ".bin",
    "200 bytes of non-ASCII": "\u00e9" * 100,
}


class Cannot(NamedTuple):
    """What comes of a name that a server cannot serve, and why it cannot."""

    error: type[Exception]
    reason: str


CANNOT: dict[tuple[str, str], Cannot] = {}
