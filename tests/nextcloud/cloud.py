"""The whole server: what is where, and who may see it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.nextcloud.answers import HTML, Answer, RefusalError, not_found
from tests.nextcloud.files import Files
from tests.nextcloud.gate import Gate
from tests.nextcloud.properties import DAV, Resource, multistatus, read_wanted
from tests.nextcloud.trashbin import TrashBin
from tests.nextcloud.tree import Tree
from tests.nextcloud.uploads import Uploads
from tests.nextcloud.versions import VERSIONS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.nextcloud.faults import Faults
    from tests.nextcloud.settings import Settings
    from tests.nextcloud.wire import Incoming

_DAV = "/remote.php/dav"
_LEGACY = "/remote.php/webdav"
_OTHER_USER = "admin"


class Cloud:
    """Answers each request, refusals included."""

    def __init__(self, root: Path, workspace: Path, settings: Settings, faults: Faults) -> None:
        self._settings = settings
        self._faults = faults
        self.gate = Gate(settings)
        self._trash = TrashBin(workspace / "trash")
        self._files = Files(Tree(root, workspace / "notes.jsonl"), settings, faults, self._trash)
        self._uploads = Uploads(workspace / "uploads", self._files, settings, faults)

    def answer(self, incoming: Incoming) -> Answer:
        """Answer one request. PHP begins a session for each client that does not bring one."""
        wrong = incoming.refused or self._faults.answer_to(incoming)
        if wrong is not None:
            return wrong
        session = self.gate.session(incoming.headers.get("cookie", ""))
        cookies = {}
        if session is None:
            session = self.gate.new_session()
            cookies = {"Set-Cookie": session.cookies()}
        try:
            if incoming.path == "/status.php":
                answer = self._status()
            elif incoming.path.startswith("/ocs/"):
                answer = self._capabilities()
            else:
                if self._settings.maintenance:
                    raise _maintenance()
                self.gate.admit(incoming.headers.get("authorization", ""), session)
                answer = self._dav(incoming)
        except RefusalError as refusal:
            answer = refusal.answer()
        answer.headers |= cookies
        return answer

    def _dav(self, incoming: Incoming) -> Answer:
        user = self._settings.user
        files = f"{_DAV}/files/{user}"
        uploads = f"{_DAV}/uploads/{user}"
        trash = f"{_DAV}/trashbin/{user}/trash"
        for base in (files, uploads, trash, _LEGACY):
            if incoming.path == base or incoming.path.startswith(f"{base}/"):
                key = "/".join(part for part in incoming.path[len(base) :].split("/") if part)
                if base == trash:
                    return self._trash.answer(incoming, base, key)
                if base == uploads:
                    return self._uploads.answer(incoming, base, key, files)
                return self._files.answer(incoming, base, key)
        other = f"{_DAV}/files/{_OTHER_USER}"
        if incoming.path.rstrip("/") == other and incoming.method == "PROPFIND":
            home = Resource(f"{other}/", {f"{DAV}resourcetype": "<d:collection/>"})
            dav = {"DAV": self._files.dav_header(files)}
            zipped = "gzip" in incoming.headers.get("accept-encoding", "")
            return multistatus([home], read_wanted(incoming.body.read()), dav, zipped=zipped)
        raise not_found(incoming.path.removeprefix(_DAV))

    def _status(self) -> Answer:
        number = VERSIONS[self._settings.version].number
        return _json(
            {
                "installed": True,
                "maintenance": self._settings.maintenance,
                "needsDbUpgrade": False,
                "version": number,
                "versionstring": number.rpartition(".")[0],
                "edition": "",
                "productname": "Nextcloud",
                "extendedSupport": False,
            },
            "application/json",
        )

    def _capabilities(self) -> Answer:
        if self._settings.maintenance:  # this is the front controller's, not the one of the DAV layer
            return Answer(503, {"Content-Type": HTML, "Retry-After": "120"}, b"<html>Maintenance mode</html>")
        version = VERSIONS[self._settings.version]
        major, minor, micro, _ = version.number.split(".")
        files: dict[str, Any] = {"bigfilechunking": True, "blacklisted_files": [".htaccess"]}
        dav: dict[str, Any] = {"chunking": "1.0"}
        if version.archives:
            files["forbidden_filenames"] = [".htaccess"]
            files["chunked_upload"] = {"max_size": 100 << 20, "max_parallel_count": 5}
            dav["public_shares_chunking"] = True
        files["forbidden_filename_characters"] = ["\\", "/"]
        if version.forbidden_endings:
            files["forbidden_filename_extensions"] = list(version.forbidden_endings)
        files["undelete"] = True
        number = {"major": int(major), "minor": int(minor), "micro": int(micro), "string": f"{major}.{minor}.{micro}"}
        data = {
            "version": number | {"edition": "", "extendedSupport": False},
            "capabilities": {"dav": dav, "files": files},
        }
        meta = {"status": "ok", "statuscode": 200, "message": "OK"}
        answer = _json({"ocs": {"meta": meta, "data": data}}, "application/json; charset=utf-8")
        answer.headers["ETag"] = f'"{version.number.replace(".", "").zfill(32)}"'
        return answer


def _json(content: dict[str, Any], kind: str) -> Answer:
    # PHP escapes slashes.
    text = json.dumps(content, separators=(",", ":")).replace("/", "\\/")
    return Answer(200, {"Content-Type": kind}, text.encode())


def _maintenance() -> RefusalError:
    return RefusalError(503, r"OCA\DAV\Exception\ServerMaintenanceMode", "System is in maintenance mode.")
