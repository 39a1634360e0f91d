"""The table: what a client asks of Nextcloud, and what it is answered. The double is right when it agrees.

A row has the name of a recorded exchange, and the rows stand in the order of the recordings. In what is asked,
``{host}`` and ``{etag}`` are filled in: the server's, and the ETag that was last told for the path. Headers of an
answer are regular expressions; its body has a shape. What differs by version stands as ``on_29``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, quote_plus

from tests.nextcloud.shapes import (
    DATE,
    ETAG,
    FILE_ID,
    FOLDER_ETAG,
    NUMBER,
    Bytes,
    Listing,
    Properties,
    Refused,
    Shape,
    Sized,
    Text,
    Zip,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.nextcloud.settings import VersionName

FILES = "/remote.php/dav/files/alice"
REC = f"{FILES}/rec"
UPLOADS = "/remote.php/dav/uploads/alice"
_REC_AT_HOST = f"https://{{host}}{REC}"
_STALE = '"0123456789abcdef0123456789abcdef"'

_A = b"a" * 1000
_B = b"b" * 1000
_C = b"c" * 10
_CHUNK_BYTES = 5_300_000
_BIG_SHA256 = "1ea12487030fd5cf2fd6ad622970450559a59b9607348c184dd44078c46f65e1"
_A_SHA256 = "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3"
_B_SHA256 = "f6f118e120e52be0bd0cfdf2794cd12c07686cc871235ac2f11459378e6d235b"
_ODD_NAMES = [
    "with space.bin",
    "hash#1.bin",
    "pct%41.bin",
    "plus+.bin",
    "ünïcödé-日本.bin",
    "quote'.bin",
    "amp&.bin",
    "semi;.bin",
    "q?.bin",
]

_ARCHIVED_ODD_NAMES = [name for name in _ODD_NAMES if not set(name) & set("+;?")]
_TOO_MANY = 900

_PROPS = "d:resourcetype d:getetag d:getcontentlength d:getlastmodified oc:checksums oc:fileid oc:size oc:permissions"
_PROPFIND = (
    '<?xml version="1.0"?><d:propfind xmlns:d="DAV:" xmlns:oc="http://owncloud.org/ns" '
    'xmlns:nc="http://nextcloud.org/ns"><d:prop>'
    + "".join(f"<{name}/>" for name in _PROPS.split())
    + "</d:prop></d:propfind>"
).encode()
_PROPFIND_QUOTA = (
    b'<?xml version="1.0"?><d:propfind xmlns:d="DAV:"><d:prop><d:quota-available-bytes/><d:quota-used-bytes/>'
    b"</d:prop></d:propfind>"
)
_LOCKINFO = (
    b'<?xml version="1.0"?><d:lockinfo xmlns:d="DAV:"><d:lockscope><d:exclusive/></d:lockscope>'
    b"<d:locktype><d:write/></d:locktype></d:lockinfo>"
)


_NOTHING = Bytes()


@dataclass(frozen=True)
class Ask:
    """A request, whose body comes ``times`` times over."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    times: int = 1
    login: Literal["right", "wrong", "none"] = "right"


@dataclass(frozen=True)
class Switch:
    """Something that the administrator of the server does."""

    what: Literal["quota_bytes", "maintenance"]
    to: int | None


@dataclass(frozen=True)
class Reply:
    """An answer: headers by their lower-case names.

    The recorder has counted what was ``streamed``, and put that into Content-Length; it comes in chunks.
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    body: Shape = _NOTHING
    streamed: bool = False


@dataclass(frozen=True)
class Row:
    """What is asked and what is answered, after what was done before and is not recorded."""

    name: str
    ask: Ask
    reply: Reply
    on_29: Reply | None = None
    before: Sequence[Ask | Switch] = ()

    def reply_of(self, version: VersionName) -> Reply:
        """Return the answer of a version."""
        return self.on_29 if self.on_29 is not None and version == "29" else self.reply


# --- headers that come together

_PAGE = {"content-type": r"text/html; charset=UTF-8"}
_EMPTY = {"content-length": "0", **_PAGE}
_XML = {"content-length": NUMBER, "content-type": "application/xml; charset=utf-8"}
_VERBS = "OPTIONS, GET, HEAD, DELETE, PROPFIND, PUT, PROPPATCH, COPY, MOVE, REPORT(, LOCK, UNLOCK)?"
_DAV = {"dav": "1, 3, extended-mkcol, .*nextcloud-checksum-update.*"}
_STORED = {"oc-fileid": FILE_ID, "etag": ETAG, "oc-etag": ETAG}
_OWNED = {**_STORED, "x-nc-ownerid": "alice", "x-nc-permissions": "RGDNVW"}


def _file(name: str) -> dict[str, str]:
    return {
        "last-modified": DATE,
        "etag": ETAG,
        "oc-etag": ETAG,
        "content-length": NUMBER,
        "content-disposition": rf"attachment; filename\*=UTF-8''{name}; filename=\"{name}\"",
        "content-type": "application/x-bin",
    }


# --- answers that come again

_COLLECTION = Reply(
    200,
    "OK",
    {"content-length": "114", **_PAGE},
    Text([r"^This is the WebDAV interface\. It can only be accessed by WebDAV clients such as the Nextcloud"]),
)


def _archive(name: str, kind: str, shape: Shape) -> Reply:
    headers = {
        "last-modified": DATE,
        "accept-ranges": "bytes",
        "content-disposition": rf"attachment; filename\*=UTF-8''{name}; filename=\"{name}\"",
        "content-length": NUMBER,
        "content-type": f"application/{kind}",
    }
    return Reply(200, "OK", headers, shape, streamed=True)


def _refused(status: int, reason: str, shape: Refused, **headers: str) -> Reply:
    return Reply(status, reason, {**headers, **_XML}, shape)


def _not_found(path: str, **headers: str) -> Reply:
    shape = Refused(r"Sabre\DAV\Exception\NotFound", f"File with name {path} could not be located")
    return _refused(404, "Not Found", shape, **headers)


def _precondition_failed(message: str, header: str, **headers: str) -> Reply:
    shape = Refused(r"Sabre\DAV\Exception\PreconditionFailed", message, header)
    return _refused(412, "Precondition failed", shape, **headers)


def _conflict(message: str) -> Reply:
    return _refused(409, "Conflict", Refused(r"Sabre\DAV\Exception\Conflict", message))


def _no_match(header: str = "If-Match") -> Reply:
    message = r"An If-Match header was specified, but none of the specified ETags matched\."
    return _precondition_failed(message, header, etag=ETAG)


def _unauthorized(message: str) -> Reply:
    headers = {"www-authenticate": r'Basic realm="Nextcloud", charset="UTF-8"'}
    return _refused(401, "Unauthorized", Refused(r"Sabre\DAV\Exception\NotAuthenticated", message), **headers)


def _no_space(message: str) -> Reply:
    shape = Refused(r"Sabre\DAV\Exception\InsufficientStorage", message)
    return _refused(507, "Insufficient Storage", shape)


def _multistatus(resources: Mapping[str, Properties], dav: Mapping[str, str] = _DAV) -> Reply:
    return Reply(207, "Multi-Status", {**dav, **_XML}, Listing(resources))


# --- rows that come again


def _put(path: str, body: bytes, name: str = "put-odd-name", **headers: str) -> Row:
    return Row(
        name,
        Ask("PUT", path, headers, body),
        Reply(201, "Created", {**_OWNED, **_EMPTY}),
        on_29=Reply(201, "Created", {**_STORED, **_EMPTY}),
    )


def _get(name: str, reply: Reply, **headers: str) -> Row:
    return Row(name, Ask("GET", f"{REC}/a.bin", headers), reply)


def _get_archive(name: str, folder: str, kind: str, names: Sequence[str], reply: Reply) -> Row:
    query = f"accept={kind}"
    if names:
        listed = ", ".join(f'"{_json(each)}"' for each in names)
        query += f"&files={quote_plus(f'[{listed}]')}"
    return Row(name, Ask("GET", f"{folder}?{query}"), reply, on_29=_COLLECTION)


def _json(name: str) -> str:
    return "".join(letter if letter.isascii() else f"\\u{ord(letter):04x}" for letter in name)


def _propfind(path: str, depth: str, body: bytes = _PROPFIND) -> Ask:
    return Ask("PROPFIND", path, {"Depth": depth}, body)


def _moved(target: str, **headers: str) -> dict[str, str]:
    return {"Destination": f"{_REC_AT_HOST}/{target}", **headers}


# --- resources in listings


def _of_a_file(size_bytes: int, checksum: str = "") -> Properties:
    found = {
        "d:resourcetype": "",
        "d:getetag": ETAG,
        "d:getcontentlength": str(size_bytes),
        "d:getlastmodified": DATE,
        "oc:checksums": f"<oc:checksum>{checksum}",
        "oc:fileid": NUMBER,
        "oc:size": str(size_bytes),
        "oc:permissions": "RGDNVW",
    }
    if checksum:
        return Properties(found)
    del found["oc:checksums"]
    return Properties(found, ["oc:checksums"])


def _of_a_folder(size_bytes: str, permissions: str = "RGDNVCK") -> Properties:
    return Properties(
        {
            "d:resourcetype": "<d:collection>",
            "d:getetag": FOLDER_ETAG,
            "d:getlastmodified": DATE,
            "oc:fileid": NUMBER,
            "oc:size": size_bytes,
            "oc:permissions": permissions,
        },
        ["d:getcontentlength", "oc:checksums"],
    )


def _of_an_upload(etag: str, size_bytes: int) -> Properties:
    return Properties(
        {
            "d:resourcetype": "",
            "d:getetag": etag,
            "d:getcontentlength": str(size_bytes),
            "d:getlastmodified": DATE,
        },
        ["oc:checksums", "oc:fileid", "oc:size", "oc:permissions"],
    )


def _href(name: str) -> str:
    return re.sub("%..", lambda escape: escape[0].lower(), f"{REC}/{quote(name, safe='()')}")


_IN_REC = {
    f"{REC}/a.bin": _of_a_file(1000),
    f"{REC}/wrong.bin": _of_a_file(1000, f"SHA256:{'0' * 64}"),
    **{_href(name): _of_a_file(len(name.encode())) for name in _ODD_NAMES},
}
_UPLOAD_FOLDER = Properties(
    {"d:resourcetype": "<d:collection>", "d:getlastmodified": DATE},
    ["d:getetag", "d:getcontentlength", "oc:checksums", "oc:fileid", "oc:size", "oc:permissions"],
)
_QUOTA = Properties({"d:quota-available-bytes": "-3", "d:quota-used-bytes": NUMBER})
_MAINTENANCE = _refused(
    503,
    "Service Unavailable",
    Refused(r"OCA\DAV\Exception\ServerMaintenanceMode", r"System is in maintenance mode\."),
)
_CHUNK = {**_moved("big.bin"), "OC-Total-Length": "5301000"}
_NO_BEARER = (
    r"No 'Authorization: Bearer' header found\. "
    "Either the client didn't send one, or the server is mis-configured"
)
_NO_BASIC = (
    r"No 'Authorization: Basic' header found\. "
    "Either the client didn't send one, or the server is misconfigured"
)
_OTHER_LOGINS = r"(AppAPIAuth has not passed, This request is not for a federated calendar, )?"


ROWS: list[Row] = [
    Row(
        "options",
        Ask("OPTIONS", f"{FILES}/"),
        Reply(200, "OK", {"allow": _VERBS, **_DAV, "accept-ranges": "bytes", **_EMPTY}),
    ),
    # --- writing
    Row("mkcol", Ask("MKCOL", REC), Reply(201, "Created", {"oc-fileid": FILE_ID, **_EMPTY})),
    Row(
        "mkcol-exists",
        Ask("MKCOL", REC),
        _refused(
            405,
            "Method Not Allowed",
            Refused(r"Sabre\DAV\Exception\MethodNotAllowed", "The resource you tried to create already exists"),
            allow=_VERBS,
        ),
    ),
    Row("mkcol-no-parent", Ask("MKCOL", f"{REC}/x/y"), _conflict("Parent node does not exist")),
    Row(
        "put-new",
        Ask(
            "PUT",
            f"{REC}/a.bin",
            {"X-OC-Mtime": "1700000000", "OC-Checksum": f"SHA256:{_A_SHA256}", "X-Hash": "sha256"},
            _A,
        ),
        Reply(201, "Created", {"x-hash-sha256": _A_SHA256, "x-oc-mtime": "accepted", **_OWNED, **_EMPTY}),
        on_29=Reply(201, "Created", {"x-hash-sha256": _A_SHA256, "x-oc-mtime": "accepted", **_STORED, **_EMPTY}),
    ),
    Row(
        "put-overwrite",
        Ask("PUT", f"{REC}/a.bin", {"X-Hash": "sha256"}, _B),
        Reply(204, "No Content", {"x-hash-sha256": _B_SHA256, **_OWNED}),
        on_29=Reply(204, "No Content", {"x-hash-sha256": _B_SHA256, **_STORED}),
    ),
    _put(f"{REC}/wrong.bin", _A, "put-wrong-oc-checksum", **{"OC-Checksum": f"SHA256:{'0' * 64}"}),
    Row(
        "put-if-none-match-star-exists",
        Ask("PUT", f"{REC}/a.bin", {"If-None-Match": "*"}, _A),
        _precondition_failed(
            r"An If-None-Match header was specified, but the ETag matched \(or \* was specified\)\.",
            "If-None-Match",
        ),
    ),
    Row("put-if-match-stale", Ask("PUT", f"{REC}/a.bin", {"If-Match": _STALE}, _A), _no_match()),
    Row("put-no-parent", Ask("PUT", f"{REC}/none/a.bin", {}, _A), _not_found("/rec/none")),
    *(_put(f"{REC}/{quote(name, safe='')}", name.encode()) for name in _ODD_NAMES),
    Row(
        "put-forbidden-name",
        Ask("PUT", f"{REC}/.htaccess", {}, _A),
        _refused(
            500,
            "Internal Server Error",
            Refused(r"OCP\Files\ForbiddenException", r"Invalid path: files/rec/\.htaccess"),
        ),
        on_29=_refused(403, "Forbidden", Refused(r"Sabre\DAV\Exception\Forbidden")),
    ),
    # --- listing
    Row(
        "propfind-file",
        _propfind(f"{REC}/a.bin", "0"),
        _multistatus({f"{REC}/a.bin": _of_a_file(1000)}),
    ),
    Row(
        "propfind-depth-1",
        _propfind(f"{REC}/", "1"),
        _multistatus({f"{REC}/": _of_a_folder("2098"), **_IN_REC}),
    ),
    Row(
        "propfind-depth-infinity",
        _propfind(f"{REC}/", "infinity"),
        _multistatus(
            {
                f"{REC}/": _of_a_folder("2108"),
                **_IN_REC,
                f"{REC}/sub/": _of_a_folder("10"),
                f"{REC}/sub/c.bin": _of_a_file(10),
            }
        ),
        before=[Ask("MKCOL", f"{REC}/sub"), Ask("PUT", f"{REC}/sub/c.bin", {}, _C)],
    ),
    Row("propfind-missing", _propfind(f"{REC}/missing", "0"), _not_found("/rec/missing", **_DAV)),
    # --- reading
    _get("get", Reply(200, "OK", _file("a.bin"), Bytes(_B))),
    Row("head", Ask("HEAD", f"{REC}/a.bin"), Reply(200, "OK", _file("a.bin"))),
    _get("get-if-none-match", Reply(304, "Not Modified", {"etag": ETAG}), **{"If-None-Match": "{etag}"}),
    _get("get-if-match-stale", _no_match(), **{"If-Match": _STALE}),
    _get(
        "get-range",
        Reply(206, "Partial Content", {**_file("a.bin"), "content-range": "bytes 10-19/1000"}, Bytes(b"b" * 10)),
        Range="bytes=10-19",
    ),
    _get(
        "get-range-suffix",
        Reply(206, "Partial Content", {**_file("a.bin"), "content-range": "bytes 995-999/1000"}, Bytes(b"b" * 5)),
        Range="bytes=-5",
    ),
    _get(
        "get-range-past-end",
        _refused(
            416,
            "Requested Range Not Satisfiable",
            Refused(
                r"Sabre\DAV\Exception\RequestedRangeNotSatisfiable",
                r"The start offset \(5000\) exceeded the size of the entity \(1000\)",
            ),
            **{"last-modified": DATE, "etag": ETAG},
        ),
        Range="bytes=5000-6000",
    ),
    _get(
        "get-range-if-range-stale",
        Reply(200, "OK", _file("a.bin"), Bytes(_B)),
        **{"Range": "bytes=10-19", "If-Range": _STALE},
    ),
    _get(
        "get-multi-range",
        Reply(
            206,
            "Partial Content",
            {**_file("a.bin"), "content-type": "multipart/byteranges; boundary=[0-9a-f]{16}"},
            Sized(212),
        ),
        Range="bytes=0-4,10-14",
    ),
    Row("get-missing", Ask("GET", f"{REC}/missing.bin"), _not_found(r"/rec/missing\.bin")),
    Row("get-collection", Ask("GET", f"{REC}/"), _COLLECTION),
    # --- archives
    _get_archive(
        "archive-zip-subset",
        REC,
        "zip",
        ["a.bin", "sub/c.bin"],
        _archive("rec.zip", "zip", Zip(1464, {"a.bin": _B, "sub/c.bin": _C})),
    ),
    _get_archive(
        "archive-zip-odd-names",
        REC,
        "zip",
        _ARCHIVED_ODD_NAMES,
        _archive(
            "rec.zip",
            "zip",
            Zip(1304, {name: name.encode() for name in _ARCHIVED_ODD_NAMES}),
        ),
    ),
    _get_archive(
        "archive-tar-subset",
        REC,
        "tar",
        ["a.bin", "sub/c.bin"],
        _archive("rec.tar", "x-tar", Sized(3584)),
    ),
    _get_archive("archive-one-missing", REC, "zip", ["a.bin", "nope.bin"], _not_found(r"/rec/nope\.bin")),
    _get_archive(
        "archive-directory-in-list",
        REC,
        "zip",
        ["a.bin", "sub"],
        _archive("rec.zip", "zip", Zip(1612)),
    ),
    _get_archive("archive-whole-folder-zip", REC, "zip", [], _archive("rec.zip", "zip", Zip(4816))),
    # One header of a folder, and 294 bytes of an error: what a client must not take for the whole.
    _get_archive(
        "archive-whole-folder-tar",
        REC,
        "tar",
        [],
        _archive("rec.tar", "x-tar", Sized(806)),
    ),
    _get_archive(
        "archive-root-subset",
        f"{FILES}/",
        "zip",
        ["rec/a.bin"],
        _archive("download.zip", "zip", Zip(1280, {"rec/a.bin": _B})),
    ),
    Row(
        "archive-url-too-long",
        _get_archive("", REC, "zip", ["a.bin"] * _TOO_MANY, _COLLECTION).ask,
        Reply(
            414,
            "Request-URI Too Long",
            {"content-length": NUMBER, "content-type": "text/html; charset=iso-8859-1"},
            Text(["<title>414 Request-URI Too Long</title>"]),
        ),
    ),
    # --- moving
    Row(
        "move",
        Ask("MOVE", f"{REC}/a.bin", _moved("moved.bin")),
        Reply(201, "Created", {**_STORED, **_EMPTY}),
    ),
    Row(
        "move-overwrite-default",
        Ask("MOVE", f"{REC}/wrong.bin", _moved("moved.bin")),
        Reply(204, "No Content", _STORED),
    ),
    _put(f"{REC}/a.bin", _A, "put-again"),
    Row(
        "move-overwrite-F",
        Ask("MOVE", f"{REC}/a.bin", _moved("moved.bin", Overwrite="F")),
        _precondition_failed(
            "The destination node already exists, and the overwrite header is set to false", "Overwrite"
        ),
    ),
    Row(
        "move-dest-no-parent",
        Ask("MOVE", f"{REC}/a.bin", _moved("none/a.bin")),
        _conflict("The destination node is not found"),
    ),
    Row(
        "copy",
        Ask("COPY", f"{REC}/a.bin", _moved("copy.bin")),
        Reply(201, "Created", {"oc-fileid": FILE_ID, **_EMPTY}),
    ),
    Row(
        "patch-recalculate-hash",
        Ask("PATCH", f"{REC}/a.bin", {"X-Recalculate-Hash": "sha256"}),
        Reply(204, "No Content", {"oc-checksum": f"SHA256:{_A_SHA256}"}),
    ),
    # --- chunks
    Row("chunk-mkcol", Ask("MKCOL", f"{UPLOADS}/t1", _moved("big.bin")), Reply(201, "Created", _EMPTY)),
    Row("chunk-put-1", Ask("PUT", f"{UPLOADS}/t1/00001", _CHUNK, b"x", _CHUNK_BYTES), Reply(201, "Created", _EMPTY)),
    Row(
        "chunk-propfind",
        _propfind(f"{UPLOADS}/t1/", "1"),
        _multistatus(
            {
                f"{UPLOADS}/t1/": _UPLOAD_FOLDER,
                f"{UPLOADS}/t1/.file": _of_an_upload(FOLDER_ETAG, _CHUNK_BYTES),
                f"{UPLOADS}/t1/00001": _of_an_upload(ETAG, _CHUNK_BYTES),
            }
        ),
    ),
    Row("chunk-put-2", Ask("PUT", f"{UPLOADS}/t1/00002", _CHUNK, b"y", 1000), Reply(201, "Created", _EMPTY)),
    Row(
        "chunk-move",
        Ask(
            "MOVE",
            f"{UPLOADS}/t1/.file",
            {**_CHUNK, "X-OC-Mtime": "1700000000", "OC-Checksum": f"SHA256:{_BIG_SHA256}"},
        ),
        Reply(201, "Created", {"x-oc-mtime": "accepted", **_STORED, **_EMPTY}),
    ),
    Row(
        "chunk-result-get",
        Ask("GET", f"{REC}/big.bin"),
        Reply(
            200,
            "OK",
            {
                **_file("big.bin"),
                "last-modified": "Tue, 14 Nov 2023 22:13:20 GMT",
                "oc-checksum": f"SHA256:{_BIG_SHA256}",
            },
            Bytes(b"x" * _CHUNK_BYTES + b"y" * 1000),
        ),
    ),
    Row(
        "chunk-result-recalculate-hash",
        Ask("PATCH", f"{REC}/big.bin", {"X-Recalculate-Hash": "sha256"}),
        Reply(204, "No Content", {"oc-checksum": f"SHA256:{_BIG_SHA256}"}),
    ),
    Row(
        "chunk-move-wrong-total",
        Ask("MOVE", f"{UPLOADS}/t2/.file", _moved("short.bin", **{"OC-Total-Length": "999999"})),
        _refused(
            400,
            "Bad Request",
            Refused(
                r"Sabre\DAV\Exception\BadRequest",
                "Chunks on server do not sum up to 999999 but to 1000 bytes",
            ),
        ),
        before=[
            Ask("MKCOL", f"{UPLOADS}/t2", _moved("short.bin")),
            Ask("PUT", f"{UPLOADS}/t2/00001", _moved("short.bin"), _A),
        ],
    ),
    Row(
        "chunk-move-missing-upload",
        Ask("MOVE", f"{UPLOADS}/nope/.file", _moved("z.bin", **{"OC-Total-Length": "1"})),
        _not_found("//nope"),
    ),
    Row("chunk-abort", Ask("DELETE", f"{UPLOADS}/t2"), Reply(204, "No Content", {})),
    # --- locks, and the end of a file
    Row(
        "lock",
        Ask("LOCK", f"{REC}/a.bin", {"Timeout": "Second-60"}, _LOCKINFO),
        Reply(
            200,
            "OK",
            _XML,
            Text(
                [
                    f"<d:href>{REC}/a\\.bin</d:href>",
                    "<d:depth>infinity</d:depth>",
                    "<d:timeout>Second-60</d:timeout>",
                    r"<d:href>opaquelocktoken:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}</d:href>",
                ]
            ),
        ),
        on_29=_refused(
            501,
            "Not Implemented",
            Refused(
                r"Sabre\DAV\Exception\NotImplemented",
                r"There was no plugin in the system that was willing to handle this LOCK method\.",
            ),
        ),
    ),
    Row("delete", Ask("DELETE", f"{REC}/copy.bin"), Reply(204, "No Content", {})),
    Row("delete-missing", Ask("DELETE", f"{REC}/copy.bin"), _not_found(r"/rec/copy\.bin")),
    # --- who may see what
    Row(
        "wrong-password",
        replace(_propfind(f"{FILES}/", "0"), login="wrong"),
        _unauthorized(
            rf"No public access to this resource\., {_OTHER_LOGINS}Username or password was incorrect, "
            f"{_NO_BEARER}, Username or password was incorrect"
        ),
    ),
    Row(
        "no-credentials",
        replace(_propfind(f"{FILES}/", "0"), login="none"),
        _unauthorized(rf"No public access to this resource\., {_OTHER_LOGINS}{_NO_BASIC}, {_NO_BEARER}, {_NO_BASIC}"),
    ),
    Row(
        "other-user",
        _propfind("/remote.php/dav/files/admin/", "0"),
        _multistatus(
            {
                "/remote.php/dav/files/admin/": Properties(
                    {"d:resourcetype": "<d:collection>"},
                    [
                        "d:getetag",
                        "d:getcontentlength",
                        "d:getlastmodified",
                        "oc:checksums",
                        "oc:fileid",
                        "oc:size",
                        "oc:permissions",
                    ],
                )
            }
        ),
    ),
    Row(
        "legacy-endpoint",
        _propfind("/remote.php/webdav/", "0"),
        _multistatus(
            {"/remote.php/webdav/": _of_a_folder(NUMBER, "GDNVCK")},
            {"dav": "1, 3, extended-mkcol, nextcloud-checksum-update(, 2)?"},
        ),
    ),
    # --- the server itself
    Row(
        "status",
        Ask("GET", "/status.php"),
        Reply(
            200,
            "OK",
            {"content-length": NUMBER, "content-type": "application/json"},
            Text(['"maintenance":false', r'"version":"34\.0\.1\.2"', '"productname":"Nextcloud"']),
        ),
        on_29=Reply(
            200,
            "OK",
            {"content-length": NUMBER, "content-type": "application/json"},
            Text(['"maintenance":false', r'"version":"29\.0\.1\.1"', '"productname":"Nextcloud"']),
        ),
    ),
    Row(
        "capabilities",
        Ask("GET", "/ocs/v2.php/cloud/capabilities?format=json", {"OCS-APIRequest": "true"}),
        Reply(
            200,
            "OK",
            {"etag": ETAG, "content-length": NUMBER, "content-type": "application/json; charset=utf-8"},
            Text(
                [
                    '"version":{"major":34,"minor":0,"micro":1,"string":"34.0.1"',
                    '"dav":{"chunking":"1.0"',
                    r'"blacklisted_files":\["\.htaccess"\]',
                    r'"forbidden_filename_extensions":\["\.filepart","\.part"\]',
                    '"chunked_upload":{"max_size":104857600,"max_parallel_count":5}',
                ]
            ),
        ),
        # 29 tells no sizes of chunks.
        on_29=Reply(
            200,
            "OK",
            {"etag": ETAG, "content-length": NUMBER, "content-type": "application/json; charset=utf-8"},
            Text(
                [
                    '"version":{"major":29,"minor":0,"micro":1,"string":"29.0.1"',
                    '"dav":{"chunking":"1.0"',
                    r'"blacklisted_files":\["\.htaccess"\]',
                    '"bigfilechunking":true',
                ]
            ),
        ),
    ),
    # --- quota
    Row("user-quota", _propfind(f"{FILES}/", "0", _PROPFIND_QUOTA), _multistatus({f"{FILES}/": _QUOTA})),
    Row(
        "put-over-quota",
        Ask("PUT", f"{REC}/over.bin", {}, b"z", 110_000_000),
        _no_space(r"Insufficient space in /rec/over\.bin"),
        on_29=_no_space(r"Insufficient space in /rec/over\.bin, 110000000 required, \d+ available"),
        before=[Switch("quota_bytes", 100 << 20)],
    ),
    Row(
        "chunk-put-over-quota",
        Ask(
            "PUT",
            f"{UPLOADS}/tq/00001",
            _moved("over.bin", **{"OC-Total-Length": "400000000"}),
            b"z",
            6_000_000,
        ),
        _no_space("Insufficient space in /rec"),
        on_29=_no_space(r"Insufficient space in /rec, 400000000 required, \d+ available"),
        before=[Ask("MKCOL", f"{UPLOADS}/tq", _moved("over.bin"))],
    ),
    Row(
        "quota-propfind",
        _propfind(f"{FILES}/", "0", _PROPFIND_QUOTA),
        _multistatus({f"{FILES}/": _QUOTA}),
        before=[Switch("quota_bytes", None)],
    ),
    # --- maintenance
    Row(
        "maintenance-propfind",
        Ask("PROPFIND", f"{FILES}/", {"Depth": "0"}),
        _MAINTENANCE,
        before=[Switch("maintenance", to=True)],
    ),
    Row("maintenance-get", Ask("GET", f"{REC}/moved.bin"), _MAINTENANCE),
    Row("maintenance-put", Ask("PUT", f"{REC}/m.bin", {}, b"x"), _MAINTENANCE),
]
