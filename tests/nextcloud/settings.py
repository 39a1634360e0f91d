"""What can be set on a double, before it starts and while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

VersionName = Literal["34", "29"]


@dataclass
class Settings:
    """The state of the server as its administrator sees it. The names are those of ``NextcloudServer``."""

    user: str
    password: str
    version: VersionName = "34"
    request_cost_s: float = 0.0
    member_cost_s: float = 0.0
    hashing_cost_s: float = 0.0
    concurrency: int | None = None
    quota_bytes: int | None = None
    maintenance: bool = False
    expired: bool = False
