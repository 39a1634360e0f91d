"""The recordings of a real Nextcloud, which are not part of this project, wherever they are at hand."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.nextcloud.shapes import DATE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.nextcloud.settings import VersionName

HOST = "cloud.example"
_FOLDER = "AI4OS_DATA_NEXTCLOUD_RECORDINGS"
_FILES: Mapping[VersionName, str] = {"34": "exchanges-34.0.1.json", "29": "exchanges-29.0.1.json"}
_CHECKOUT = Path(__file__).resolve().parents[2]

# What is another on each run, and what stands for it when two runs are compared.
_VARYING = [
    (re.compile(r"(?<=\")[0-9a-f]{32}(?=\")|(?<=&quot;)[0-9a-f]{32}(?=&quot;)"), "<etag>"),
    (re.compile(r"(?<=\")[0-9a-f]{13}(?=\")|(?<=&quot;)[0-9a-f]{13}(?=&quot;)"), "<folder-etag>"),
    (re.compile(r"\d{8,}oc[0-9a-z]{10}"), "<file-id>"),
    (re.compile(r"(?<=<oc:fileid>)\d+(?=<)"), "<file-id>"),
    (re.compile(r"(?<=opaquelocktoken:)[0-9a-f-]{36}"), "<token>"),
    (re.compile(r"(?<=boundary=)[0-9a-f]{16}"), "<boundary>"),
    (re.compile(DATE), "<date>"),
    (re.compile(r"https?://[a-z0-9.:]+"), "<origin>"),
]
_RESPONSE = re.compile(r"<d:response>.*?</d:response>", re.DOTALL)


@dataclass(frozen=True)
class Exchange:
    """A request that was sent to a real server, and its answer."""

    name: str
    request: Mapping[str, Any]
    response: Mapping[str, Any]


def missing_recordings() -> str | None:
    """Return why nothing can be compared with the recordings, naming them, or None."""
    missing = [str(_folder() / name) for name in _FILES.values() if not (_folder() / name).exists()]
    if not missing:
        return None
    return f"no recordings of Nextcloud: {' and '.join(missing)}; set {_FOLDER} to the folder that has them"


def read_exchanges(version: VersionName) -> list[Exchange]:
    """Return those of a version, in the order in which they were recorded."""
    recorded = json.loads((_folder() / _FILES[version]).read_text(encoding="utf-8"))
    return [Exchange(exchange["name"], exchange["request"], exchange["response"]) for exchange in recorded["exchanges"]]


def normalised(text: str) -> str:
    """Return a header or a body with names for what varies."""
    for pattern, name in _VARYING:
        text = pattern.sub(name, text)
    return text


def resources(listing: str) -> set[str]:
    """Return what a multistatus says of each resource; their order varies too."""
    return set(_RESPONSE.findall(normalised(listing)))


def around_resources(listing: str) -> str:
    """Return the rest of a multistatus."""
    return _RESPONSE.sub("", listing)


def _folder() -> Path:
    named = os.environ.get(_FOLDER)
    return Path(named) if named else _CHECKOUT.parent / "shared" / "nextcloud"
