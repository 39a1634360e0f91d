"""Which Lightning a program trains with: `lightning`, or `pytorch_lightning`, whose classes are other ones.

Each is installed with the other, so only the program's imports show which one it uses.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning import pytorch
    from lightning.fabric import plugins

__all__ = ["FLAVOUR", "plugins", "pytorch"]


def _chosen() -> tuple[str, str]:
    """The names of the two packages of the chosen Lightning."""
    ours, other = ("lightning.pytorch", "lightning.fabric"), ("pytorch_lightning", "lightning_fabric")
    if find_spec("lightning") is None and find_spec(other[0]) is None:
        raise ImportError("checkpoints for Lightning need it: pip install 'ai4os-data[lightning]'")
    is_other = other[0] in sys.modules and ours[0] not in sys.modules
    return other if is_other or find_spec("lightning") is None else ours


FLAVOUR, _FABRIC = _chosen()

if not TYPE_CHECKING:
    pytorch = import_module(FLAVOUR)
    plugins = import_module(f"{_FABRIC}.plugins")
    for _part in ("callbacks", "strategies", "utilities.exceptions"):
        import_module(f"{FLAVOUR}.{_part}")
