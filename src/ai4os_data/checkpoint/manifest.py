"""The manifest: a checkpoint exists when its manifest does, which lists every byte that belongs to it."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from typing import Any

from ai4os_data import errors
from ai4os_data.checkpoint.names import AttemptName, CheckpointName
from ai4os_data.stores import is_safe

SCHEMA = 1

_LARGEST_BYTES = 16 * 1024 * 1024
_HEXADECIMAL = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class FileFacts:
    """The size and the sha256 of a file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest.

    Attributes:
        name: the checkpoint's; a manifest in the folder of another one is refused.
        files: the name of each file within the folder, and its facts.
        parent: the checkpoint that its attempt was resumed from, if any.
        metrics: what was measured at its step.
        ranks: how many processes trained.
        versions: of what wrote it.
    """

    name: CheckpointName
    files: dict[str, FileFacts]
    parent: CheckpointName | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    ranks: int = 1
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """The size of all of its files."""
        return sum(facts.size_bytes for facts in self.files.values())

    def to_json(self) -> bytes:
        """The manifest as it is stored; its own hash is that of the same text without the hash."""
        content = {
            "schema": SCHEMA,
            "step": self.name.step,
            "attempt": self.name.attempt.number,
            "name": str(self.name),
            "parent": str(self.parent) if self.parent else None,
            "metrics": self.metrics,
            "files": {name: asdict(facts) for name, facts in sorted(self.files.items())},
            "ranks": self.ranks,
            "versions": self.versions,
        }
        return json.dumps({**content, "sha256": _hash(content)}, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, name: CheckpointName) -> Manifest:
        """The manifest that was found in the folder of a checkpoint.

        Raises:
            IntegrityError: it is not exactly the manifest that was written there.
        """
        content = _object(data)
        claimed = content.pop("sha256", None)
        if content.get("schema") != SCHEMA:
            raise errors.IntegrityError(
                f"the manifest has the schema {content.get('schema')!r}, and this version reads {SCHEMA}"
            )
        if claimed != _hash(content):
            raise errors.IntegrityError("the manifest's bytes do not match its own sha256")
        try:
            manifest = cls(
                name=name,
                files={file: _facts(file, facts) for file, facts in content["files"].items()},
                parent=_parent(content["parent"]),
                metrics={str(key): float(value) for key, value in content["metrics"].items()},
                ranks=int(content["ranks"]),
                versions={str(key): str(value) for key, value in content["versions"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise errors.IntegrityError(f"the manifest lacks something, or has it in another form: {error}") from error
        if content.get("name") != str(name):
            raise errors.IntegrityError(f"the manifest is that of {content.get('name')!r}")
        if manifest.to_json() != data:
            raise errors.IntegrityError("the manifest is not written as this version writes it")
        return manifest


def attempt_mark(attempt: AttemptName) -> bytes:
    """The content of an attempt's mark; only its existence counts."""
    return json.dumps({"schema": SCHEMA, "attempt": str(attempt), "committed": True}).encode() + b"\n"


@cache
def versions() -> dict[str, str]:
    """The versions of this library, of torch and of Python, for a manifest."""
    return {"python": platform.python_version()} | {
        library: metadata.version(library) for library in ("ai4os-data", "numpy", "torch")
    }


def _object(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data) if len(data) <= _LARGEST_BYTES else None
    except (ValueError, RecursionError) as error:
        raise errors.IntegrityError(f"the manifest is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise errors.IntegrityError("the manifest is no JSON object")
    return content


def _facts(file: str, facts: dict[str, Any]) -> FileFacts:
    if "/" in file or not is_safe(file):
        raise ValueError(f"{file!r} is no file of its folder")
    size_bytes, sha256 = facts["size_bytes"], facts["sha256"]
    if type(size_bytes) is not int or size_bytes < 0:
        raise ValueError(f"{file!r} has the size {size_bytes!r}")
    if not isinstance(sha256, str) or len(sha256) != 64 or not _HEXADECIMAL.issuperset(sha256):
        raise ValueError(f"{file!r} has the sha256 {sha256!r}")
    return FileFacts(size_bytes, sha256)


def _parent(text: object) -> CheckpointName | None:
    if text is None:
        return None
    parent = CheckpointName.parse(text) if isinstance(text, str) else None
    if parent is None:
        raise ValueError(f"{text!r} is no checkpoint")
    return parent


def _hash(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
