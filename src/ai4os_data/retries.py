"""How long and how often a request is tried, for those who open a store of their own."""

from __future__ import annotations

from ai4os_data.http import Patience

__all__ = ["Patience"]
