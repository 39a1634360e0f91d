"""A file that cannot be loaded is distinguished from a machine that cannot hold it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ai4os_data import errors
from ai4os_data.checkpoint.manifest import FileFacts
from ai4os_data.checkpoint.serialisation import load_state, write_state
from ai4os_data.machine import sha256_of

if TYPE_CHECKING:
    from pathlib import Path


def test_written_state_has_the_hash_that_is_returned(tmp_path: Path) -> None:
    """The state comes back on the device that is asked for."""
    path = tmp_path / "state.pt"
    written = write_state({"x": torch.arange(100_000), "n": 1}, path)
    assert written == FileFacts(path.stat().st_size, sha256_of(path))
    assert load_state(path)["x"].tolist() == list(range(100_000))
    assert load_state(path, map_location="meta")["x"].device.type == "meta"


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device that is missing is CUDA")
def test_device_that_is_missing_is_no_damage(tmp_path: Path) -> None:
    """Torch's own error is raised, since every byte is right."""
    path = tmp_path / "state.pt"
    write_state({"x": torch.ones(2)}, path)
    with pytest.raises(RuntimeError, match="CUDA") as caught:
        load_state(path, map_location="cuda")
    assert not isinstance(caught.value, errors.StorageError)


def test_lack_of_memory_is_no_damage(tmp_path: Path) -> None:
    """Torch's own error is raised."""
    path = tmp_path / "state.pt"
    write_state({"x": torch.ones(2)}, path)

    def no_memory(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        raise torch.cuda.OutOfMemoryError(f"{storage.nbytes()} bytes on {location}")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        load_state(path, map_location=no_memory)


@pytest.mark.parametrize("kept", [0.0, 0.99])
def test_file_out_of_which_no_state_comes_is_damaged(kept: float, tmp_path: Path) -> None:
    """An empty file and a cut one are damaged."""
    path = tmp_path / "state.pt"
    write_state({"x": torch.ones(20_000)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(errors.IntegrityError, match=r"state\.pt cannot be loaded"):
        load_state(path)


def test_what_is_not_plain_is_not_loaded(tmp_path: Path) -> None:
    """Objects are loaded only if their code may run."""
    path = tmp_path / "state.pt"
    write_state({"x": frozenset({1})}, path)
    with pytest.raises(errors.IntegrityError, match="frozenset"):
        load_state(path)
    assert load_state(path, weights_only=False) == {"x": frozenset({1})}
