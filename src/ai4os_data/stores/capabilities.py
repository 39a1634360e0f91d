"""What a Nextcloud can do, as far as it has said or shown it. Until then, only what is safe with every server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ai4os_data import errors
from ai4os_data.http import MemoryBody, Request

if TYPE_CHECKING:
    from ai4os_data.http import Transport

_PATH = "/ocs/v2.php/cloud/capabilities?format=json"
_MOST_PARALLEL = 4  # enough to fill a link


class ChunkLimits(NamedTuple):
    """The limits of a chunked upload.

    Attributes:
        most_bytes: of one chunk.
        parallel: how many chunks may be on their way at a time.
    """

    most_bytes: int = 100 * 1024 * 1024
    parallel: int = 4


@dataclass
class Capabilities:
    """What is known of a server. The requests to it record here what they find; all copies of a store share it.

    Attributes:
        makes_archives: whether it answers with archives of many files.
        takes_chunks: whether it takes uploads in chunks.
        chunk_limits: its limits for chunks; None if it was not asked yet.
        was_full: whether it had no room when it was asked last.
        answers_heads: whether it answers ``Expect: 100-continue``.
    """

    makes_archives: bool = True
    takes_chunks: bool = True
    chunk_limits: ChunkLimits | None = None
    was_full: bool = False
    answers_heads: bool = True


def chunk_limits(transport: Transport, server_url: str) -> ChunkLimits:
    """Ask a server for its limits.

    Args:
        transport: to ask through.
        server_url: where ``remote.php`` and ``ocs`` are, without a slash at the end.

    Raises:
        AuthenticationError: the server does not accept the credentials.
    """
    body = MemoryBody()
    try:
        transport.send(Request(server_url + _PATH, body, headers=("OCS-APIRequest: true",)))
        found = json.loads(body.getvalue())["ocs"]["data"]["capabilities"]["files"]["chunked_upload"]
    except errors.AuthenticationError:
        raise
    except (errors.StorageError, ValueError, KeyError, TypeError):
        return ChunkLimits()  # versions before 31 say nothing of it; some proxies let only the DAV addresses through
    default = ChunkLimits()
    return ChunkLimits(
        _positive(found, "max_size", default.most_bytes),
        min(_MOST_PARALLEL, _positive(found, "max_parallel_count", default.parallel)),
    )


def _positive(found: Any, name: str, default: int) -> int:
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, int) and value > 0 else default
