"""The trash bin: what was deleted, under its name and the time, kept where the user's files are not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from tests.nextcloud import properties
from tests.nextcloud.answers import Answer, not_found, not_implemented
from tests.nextcloud.properties import DAV, NC, OC, Resource

if TYPE_CHECKING:
    from pathlib import Path

    from tests.nextcloud.wire import Incoming

_NOTE = ".origin"


class TrashBin:
    """What is below ``/remote.php/dav/trashbin/USER/trash/``."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._lock = threading.Lock()

    def take(self, path: str, key: str) -> None:
        """Move what lies at a path into the bin; what has the same name and the same second makes way."""
        name, deleted_s = key.rpartition("/")[2], int(time.time())
        thrown = f"{name}.d{deleted_s}"
        with self._lock:
            self._remove(thrown)
            try:
                shutil.move(path, self._path(thrown))
            except FileNotFoundError as error:  # another request was faster
                raise not_found(f"/{key}") from error
            note = {"thrown": thrown, "name": name, "location": key, "deleted_s": deleted_s}
            self._note(thrown).write_text(json.dumps(note), encoding="utf-8")

    def answer(self, incoming: Incoming, base: str, key: str) -> Answer:
        """Answer a request for a key below a base."""
        if incoming.method == "PROPFIND" and not key:
            return self._propfind(incoming, base)
        if incoming.method == "DELETE" and key and "/" not in key:
            with self._lock:
                if not self._note(key).exists():
                    raise not_found(f"//{key}")
                self._remove(key)
            return Answer(204)
        raise not_implemented(incoming.method)

    def _propfind(self, incoming: Incoming, base: str) -> Answer:
        wanted = properties.read_wanted(incoming.body.read())
        found = [Resource(f"{base}/", {f"{DAV}resourcetype": "<d:collection/>"})]
        if incoming.headers.get("depth", "1") != "0":
            found += [self._described(base, path) for path in sorted(self._directory.glob(f"*{_NOTE}"))]
        return properties.multistatus(found, wanted, {}, zipped=False)

    def _described(self, base: str, note: Path) -> Resource:
        told = json.loads(note.read_text(encoding="utf-8"))
        path = self._path(told["thrown"])
        is_folder = path.is_dir()
        files = [one for one in path.rglob("*") if one.is_file()] if is_folder else [path]
        size_bytes = sum(one.stat().st_size for one in files)
        about = {
            f"{DAV}resourcetype": "<d:collection/>" if is_folder else "",
            f"{NC}trashbin-filename": escape(told["name"]),
            f"{NC}trashbin-original-location": escape(told["location"]),
            f"{NC}trashbin-deletion-time": str(told["deleted_s"]),
            f"{OC}size": str(size_bytes),
        }
        if not is_folder:
            about[f"{DAV}getcontentlength"] = str(size_bytes)
        return Resource(f"{base}/{told['thrown']}{'/' if is_folder else ''}", about)

    def _path(self, thrown: str) -> Path:
        # A name may be as long as a file system takes, without the time after it.
        return self._directory / hashlib.sha256(os.fsencode(thrown)).hexdigest()

    def _note(self, thrown: str) -> Path:
        return self._path(thrown).with_suffix(_NOTE)

    def _remove(self, thrown: str) -> None:
        path = self._path(thrown)
        self._note(thrown).unlink(missing_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
