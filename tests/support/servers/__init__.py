"""The real servers that the tests and the benchmarks run against.

Each is a context manager that starts one process on 127.0.0.1, waits until it answers, and ends it at
the end of the ``with``, or when this process ends, even by SIGKILL. Each has ``name``, ``url``,
``root``, ``user``, ``password``, ``requests()``, ``forget()``, ``stop()`` and ``start()``.
"""

from tests.support.servers.apache import ApacheServer
from tests.support.servers.base import PASSWORD, USER, Server
from tests.support.servers.certificates import Certificates, make_certificates
from tests.support.servers.children import ServerFailedError
from tests.support.servers.fault import BROKEN_XML, HREFS_ELSEWHERE, LOGIN_PAGE, Fault, FaultServer
from tests.support.servers.journal import Request
from tests.support.servers.proxy import ShapedProxy
from tests.support.servers.rclone import RcloneMount, RcloneServer
from tests.support.servers.requires import missing_apache, missing_fuse, need
from tests.support.servers.wsgidav import WsgidavServer

__all__ = [
    "BROKEN_XML",
    "HREFS_ELSEWHERE",
    "LOGIN_PAGE",
    "PASSWORD",
    "USER",
    "ApacheServer",
    "Certificates",
    "Fault",
    "FaultServer",
    "RcloneMount",
    "RcloneServer",
    "Request",
    "Server",
    "ServerFailedError",
    "ShapedProxy",
    "WsgidavServer",
    "make_certificates",
    "missing_apache",
    "missing_fuse",
    "need",
]
