"""What every server of the tests is: a folder behind a URL, for one user, with a list of what was asked."""

from __future__ import annotations

import base64
import shutil
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from tests.support.servers.children import Child
    from tests.support.servers.journal import Request

USER = "alice"
PASSWORD = "sesame-Öffne#1"  # what is not ASCII or means something in a URL has to survive


class Server(ABC):
    """A real server in a process of its own, on 127.0.0.1, until the ``with`` ends or this process does.

    Args:
        root: The folder that it serves; made if it is absent.
        user: The only user that may come in, by basic authentication.
        password: Its password.
    """

    name: ClassVar[str]

    def __init__(self, root: Path, *, user: str = USER, password: str = PASSWORD) -> None:
        self.root = root
        self.user = user
        self.password = password
        self.port = 0
        self._forgotten = 0
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """The root of what is served, with a slash at its end."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def authorization(self) -> str:
        """The header that lets its user in."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    @property
    def child(self) -> Child:
        """The process that serves."""
        assert self._child is not None, f"{self.name} is not running"
        return self._child

    def requests(self) -> list[Request]:
        """Return what was asked since the first start or the last ``forget``, oldest first."""
        return self._all_requests()[self._forgotten :]

    def forget(self) -> None:
        """Count from here."""
        self._forgotten = len(self._all_requests())

    def start(self) -> None:
        """Answer from now on; after a ``stop`` at the same port, with the same folder."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._child = self._launch()

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def __enter__(self) -> Self:
        """Start."""
        self._workspace = Path(tempfile.mkdtemp(prefix=f"ai4os-data-{self.name}-"))
        try:
            self.start()
        except BaseException:
            shutil.rmtree(self._workspace)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop, and leave nothing but the folder."""
        self.stop()
        shutil.rmtree(self._workspace)

    @abstractmethod
    def _launch(self) -> Child:
        """Start at ``self.port``, or at a free one that is then kept there."""

    @abstractmethod
    def _all_requests(self) -> list[Request]:
        """Return what was asked since the first start."""
