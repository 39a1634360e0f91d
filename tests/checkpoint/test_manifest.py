"""A manifest lists the content of a checkpoint, and one with a single changed byte is refused."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from ai4os_data.checkpoint.manifest import FileFacts, Manifest, _hash
from ai4os_data.checkpoint.names import AttemptName, CheckpointName, state_file
from ai4os_data.errors import IntegrityError

NAME = CheckpointName(AttemptName(3, "0123abcd"), 123, "89abcdef")
MANIFEST = Manifest(
    NAME,
    {"state-0.pt": FileFacts(10, "a" * 64)},
    parent=CheckpointName(AttemptName(2, "00000000"), 100, "11111111"),
    metrics={"val_loss": 0.25, "nan": float("inf")},
    ranks=2,
    versions={"torch": "2"},
)


def test_manifest_comes_back_as_it_was() -> None:
    """A manifest comes back unchanged from its JSON."""
    assert Manifest.from_json(MANIFEST.to_json(), NAME) == MANIFEST
    assert str(NAME) == "000003-0123abcd/step-000000123-89abcdef"


def test_every_flip_of_a_bit_and_every_cut_is_noticed() -> None:
    """White space is checked too."""
    data = MANIFEST.to_json()
    for place in range(len(data)):
        with pytest.raises(IntegrityError):
            Manifest.from_json(data[:place], NAME)
        flipped = bytearray(data)
        flipped[place] ^= 1 << random.Random(place).randrange(8)
        with pytest.raises(IntegrityError):
            Manifest.from_json(bytes(flipped), NAME)
    with pytest.raises(IntegrityError):
        Manifest.from_json(data + b" ", NAME)


def test_manifest_of_another_folder_is_not_its_own() -> None:
    """A copied manifest does not make a checkpoint of another step."""
    other = CheckpointName(NAME.attempt, 124, NAME.nonce)
    with pytest.raises(IntegrityError, match="step-000000123"):
        Manifest.from_json(MANIFEST.to_json(), other)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"files": {"../up": {"size_bytes": 1, "sha256": "a" * 64}}},
        {"files": {"a/b": {"size_bytes": 1, "sha256": "a" * 64}}},
        {"files": {"": {"size_bytes": 1, "sha256": "a" * 64}}},
        {"files": {"a": {"size_bytes": -1, "sha256": "a" * 64}}},
        {"files": {"a": {"size_bytes": True, "sha256": "a" * 64}}},
        {"files": {"a": {"size_bytes": 1, "sha256": "a"}}},
        {"files": []},
        {"parent": "../x"},
        {"parent": 3},
        {"metrics": {"x": "high"}},
        {"extra": 1},
    ],
)
def test_well_hashed_nonsense_is_refused(change: dict[str, Any]) -> None:
    """Names must stay in their folder and values have their types, even if the hash is right."""
    content = json.loads(MANIFEST.to_json()) | change
    del content["sha256"]
    data = json.dumps({**content, "sha256": _hash(content)}, indent=1).encode() + b"\n"
    with pytest.raises(IntegrityError):
        Manifest.from_json(data, NAME)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"schema": 1}'])
def test_what_is_no_manifest_at_all_is_refused(data: bytes) -> None:
    """Any other content raises the same error."""
    with pytest.raises(IntegrityError):
        Manifest.from_json(data, NAME)


def test_names_of_others_are_no_checkpoints() -> None:
    """Files of the user beside the checkpoints are left alone."""
    for text in ("step-000000123-89abcdef", "000003-0123abcd", "3-0123abcd/step-1-89abcdef", f"{NAME}/x", "", "../.."):
        assert CheckpointName.parse(text) is None
    assert CheckpointName.parse(str(NAME)) == NAME
    huge = CheckpointName(AttemptName(12345678, "0123abcd"), 10**12, "89abcdef")
    assert CheckpointName.parse(str(huge)) == huge
    assert state_file("ab" * 32) == f"state-{'ab' * 16}.pt"
