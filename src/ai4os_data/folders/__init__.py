"""Whole directories, for code that takes a path."""

from __future__ import annotations

from ai4os_data.folders.local import LocalCopy, copied_to, local_copy
from ai4os_data.folders.progress import Progress

__all__ = ["LocalCopy", "Progress", "copied_to", "local_copy"]
