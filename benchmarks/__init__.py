"""Benchmarks: what the library costs beside what cannot be avoided, measured in one run on one machine."""

from __future__ import annotations

import sys
from pathlib import Path

# The servers of the tests are those of the benchmarks; they are no part of what is installed.
_servers = str(Path(__file__).resolve().parents[1] / "tests")
if _servers not in sys.path:
    sys.path.append(_servers)
