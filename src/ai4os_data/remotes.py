"""Remotes, for those who pass one: where a server is, and who we are there."""

from __future__ import annotations

from ai4os_data.locations import Remote, obscure

__all__ = ["Remote", "obscure"]
