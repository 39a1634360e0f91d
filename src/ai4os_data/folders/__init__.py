"""Whole directories, for code that takes a path."""

from __future__ import annotations

from ai4os_data.folders.local import LocalCopy, copied_to, local_copy
from ai4os_data.folders.progress import Progress, Show, bar

__all__ = ["LocalCopy", "Progress", "Show", "bar", "copied_to", "local_copy"]
