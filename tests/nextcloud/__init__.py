"""A double of Nextcloud, held by a contract test against recordings of the real one."""

from tests.nextcloud.double import NextcloudServer

__all__ = ["NextcloudServer"]
