"""Folders made on a Nextcloud, whose refusal may mean that the quota is used up."""

from __future__ import annotations

from ai4os_data import errors
from ai4os_data.stores.dav_folders import FolderMaker
from ai4os_data.stores.multistatus import NotMultistatusError, properties
from ai4os_data.stores.names import check_utf_8

_AVAILABLE = "DAV: quota-available-bytes"
_QUOTA = b'<?xml version="1.0"?><d:propfind xmlns:d="DAV:"><d:prop><d:quota-available-bytes/></d:prop></d:propfind>'


class NextcloudFolderMaker(FolderMaker):
    """Makes folders below the folder of a store."""

    def make(self, key: str) -> bool:
        """Make a folder, and those above it, if they are missing. Returns whether the server says it is new.

        Raises:
            OutOfSpaceError: the quota is used up. Before version 30 or so, the server answers that with a plain 403.
        """
        location = self._folder.location
        check_utf_8(location, key)
        try:
            return super().make(key)
        except errors.PermissionDeniedError as error:
            if not self._is_full(self._folder.address.below_remote(key)):
                raise
            raise errors.OutOfSpaceError(
                f"{location}: {key!r} cannot be made: the account's quota is used up. Remove what is not needed on the "
                "storage, or ask for a larger quota; what lies in the trash bin does not count"
            ) from error

    def _is_full(self, path: str) -> bool:
        """Whether no byte is left of the quota, as far as the server says.

        It repeats its answer for a folder for five minutes, so one is asked that others hardly ask for.
        """
        headers = {"Depth": "0", "Content-Type": "application/xml"}
        while path:
            path = path.rpartition("/")[0]
            url = self._folder.address.url_below_remote(path)
            try:
                answer = self._folder.dav.send("PROPFIND", f"{url}/", headers, _QUOTA, tries=1)
                found = properties(answer.body, [_AVAILABLE])
            except errors.NotFoundError:
                continue
            except (errors.StorageError, NotMultistatusError):
                return False
            return any(texts.get(_AVAILABLE) == "0" for _, texts in found)
        return False
