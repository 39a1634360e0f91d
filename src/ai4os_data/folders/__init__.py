"""Whole directories, for code that takes a path."""

from __future__ import annotations

from ai4os_data.folders.local import LocalCopy, local_copy

__all__ = ["LocalCopy", "local_copy"]
