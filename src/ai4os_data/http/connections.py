"""What all stores of one remote share in a process: connections, the number in flight, whether the server answers."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ai4os_data.http import proxies
from ai4os_data.http.concurrency import Concurrency
from ai4os_data.http.outages import Outage
from ai4os_data.machine import PerProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai4os_data.http.proxies import Proxy
    from ai4os_data.locations import Remote


class Connections:
    """What the stores of one remote share. It is dropped with the last of them.

    Attributes:
        lanes: those that no thread uses now.
        concurrency: how many requests the server rewards.
        outage: whether it answers.
    """

    def __init__(self, remote: Remote) -> None:
        self.lanes: deque[Any] = deque()
        self.concurrency = Concurrency()
        self.outage = Outage(f"{remote.name}: ({remote.origin})" if remote.name else remote.origin)
        self._lock = threading.Lock()
        self._client: Any = None

    def client(self, make: Callable[[], Any]) -> Any:
        """The client of the DAV verbs, which do not go through curl; made on first use."""
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = make()
        return self._client


_Shared = tuple[threading.Lock, "weakref.WeakValueDictionary[tuple[Remote, Proxy | None], Connections]"]

# The connections of a process, as long as a store holds them.
_shared: PerProcess[_Shared] = PerProcess(lambda: (threading.Lock(), weakref.WeakValueDictionary()))


def account(remote: Remote) -> Remote:
    """What remotes have in common that may share connections and cookies: all but the folder."""
    parts = urlsplit(remote.url)
    return replace(remote, url=f"{parts.scheme}://{parts.netloc}")


def connections_to(remote: Remote) -> Connections:
    """Those of this process, shared with every other store of the same server and credentials."""
    key = account(remote), proxies.proxy_for(remote.url, os.environ)  # a notebook may set a proxy after a failure
    lock, shared = _shared.get()
    with lock:
        found = shared.get(key)
        if found is None:
            found = shared[key] = Connections(remote)
        return found
