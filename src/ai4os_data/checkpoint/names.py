"""The names of checkpoints: ``<attempt>/step-000000123-<nonce>/``. Two writers never choose the same.

They are ordered by (attempt, step), without any clock.
"""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

MANIFEST = "MANIFEST.json"
COMMITTED = "COMMITTED.json"

_NONCE_BYTES = 4
_NUMBERS = 0x1000000
_ATTEMPT = re.compile(r"([0-9]{6,100})-([0-9a-f]{8})")
_STEP = re.compile(r"step-([0-9]{9,200})-([0-9a-f]{8})")


class AttemptName(NamedTuple):
    """One start of a run: a number, one more than the highest that was seen, and a nonce."""

    number: int
    nonce: str

    @classmethod
    def new(cls, number: int) -> AttemptName:
        """A name that nobody else has."""
        return cls(number, secrets.token_hex(_NONCE_BYTES))

    @classmethod
    def parse(cls, text: str) -> AttemptName | None:
        """The attempt that a folder is named after; None if the name is not in that form."""
        match = _ATTEMPT.fullmatch(text)
        name = cls(int(match[1]), match[2]) if match else None
        return name if str(name) == text else None  # another spelling would be another folder

    @property
    def mark(self) -> str:
        """The name of the file that says that this attempt has had a whole checkpoint on the store."""
        return f"{self}/{COMMITTED}"

    def __str__(self) -> str:
        """The name of its folder."""
        return f"{self.number:06d}-{self.nonce}"


class CheckpointName(NamedTuple):
    """One checkpoint of an attempt. Its nonce begins with how many there were in the attempt before it."""

    attempt: AttemptName
    step: int
    nonce: str

    @classmethod
    def new(cls, attempt: AttemptName, step: int, number: int = 0) -> CheckpointName:
        """A name that nobody else has, not even an earlier save of the same step, which it comes after."""
        return cls(attempt, step, f"{number % _NUMBERS:06x}{secrets.token_hex(1)}")

    @classmethod
    def parse(cls, text: str) -> CheckpointName | None:
        """The checkpoint that the path of a folder names; None if it is not in that form."""
        first, _, second = text.partition("/")
        attempt, match = AttemptName.parse(first), _STEP.fullmatch(second)
        name = cls(attempt, int(match[1]), match[2]) if attempt and match else None
        return name if str(name) == text else None

    @property
    def order(self) -> tuple[int, int]:
        """A value that is higher for later checkpoints."""
        return self.attempt.number, self.step

    def is_older_than(self, other: CheckpointName) -> bool:
        """Whether it was saved before another one of the same attempt, or belongs to an earlier step or attempt."""
        if self.attempt == other.attempt:
            return self.nonce < other.nonce
        return self.order < other.order

    def leads_to(self, other: CheckpointName) -> bool:
        """Whether a training that resumes from the other one has passed this checkpoint, or resumes from it."""
        return self.attempt == other.attempt and (self.step, self.nonce) <= (other.step, other.nonce)

    @property
    def folder(self) -> str:
        """Its folder within the attempt's."""
        return f"step-{self.step:09d}-{self.nonce}"

    def __str__(self) -> str:
        """Its folder within the run's."""
        return f"{self.attempt}/{self.folder}"


def state_file(sha256: str) -> str:
    """The name of the file that holds a state: another state has another one."""
    return f"state-{sha256[:32]}.pt"
