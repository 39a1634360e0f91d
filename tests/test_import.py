"""Importing the library costs no torch, no network and no thread."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import ai4os_data
from ai4os_data import checkpoint

OBSERVE = """
import json, os, sys, threading

seen = []
watched = ("socket.", "subprocess.", "os.fork", "os.posix_spawn", "os.mkdir", "os.remove")
start = threading.Thread.start
threading.Thread.start = lambda thread: (seen.append(f"thread {thread.name}"), start(thread))

def note(event, arguments):
    if event.startswith(watched):
        seen.append(event)
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        seen.append(f"open for writing: {arguments[0]}")

sys.dont_write_bytecode = True
sys.addaudithook(note)
__import__(sys.argv[1])
print(json.dumps({"seen": seen, "torch": "torch" in sys.modules, "threads": len(os.listdir("/proc/self/task"))}))
"""


@pytest.mark.parametrize("module", ["ai4os_data", "ai4os_data.cli.main"])
def test_import_has_no_side_effects_and_needs_no_torch(module: str) -> None:
    """In a fresh interpreter: no torch, no socket, no thread, no process, nothing written."""
    answer = subprocess.run([sys.executable, "-c", OBSERVE, module], check=True, capture_output=True, text=True)
    assert json.loads(answer.stdout) == {"seen": [], "torch": False, "threads": 1}


@pytest.mark.parametrize("command", ["get", "warm", "ls", "checkpoints", "doctor", "cache"])
def test_commands_need_no_torch(command: str) -> None:
    """Loading torch takes seconds, and only the demo trains."""
    observed = [sys.executable, "-c", OBSERVE, f"ai4os_data.cli.{command}"]
    answer = subprocess.run(observed, check=True, capture_output=True, text=True)
    assert json.loads(answer.stdout)["torch"] is False


def test_every_public_name_is_there() -> None:
    """What ``__all__`` promises is loaded on first use, and listed by ``dir``."""
    for name in ai4os_data.__all__:
        assert getattr(ai4os_data, name).__name__ == name
    assert set(ai4os_data.__all__) <= set(dir(ai4os_data))


def test_every_name_at_the_door_of_checkpoint_is_there() -> None:
    """Most of them are loaded on first use, as torch is with them."""
    assert all(getattr(checkpoint, name) is not None for name in checkpoint.__all__)
    with pytest.raises(AttributeError, match="Checkpoint2"):
        _ = checkpoint.Checkpoint2


def test_unknown_name_is_an_attribute_error() -> None:
    """The error is the same as for any module."""
    with pytest.raises(AttributeError, match="StorageCheckpoint2"):
        _ = ai4os_data.StorageCheckpoint2
