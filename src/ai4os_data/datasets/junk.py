"""Junk: files that systems leave beside a user's own, such as ``Thumbs.db`` and ``__MACOSX``. No sample is one."""

from __future__ import annotations

import re

# Compared without regard to case, as the systems do that leave them.
_NAMES = re.compile(
    r"""
    \._.* | \.ds_store | \.appledouble | \.spotlight-v100 | \.trashes | \.fseventsd | \.temporaryitems
    | \.documentrevisions-v100 | \.apdisk | \.localized | \.volumeicon\.icns                  # macOS
    | \$recycle\.bin | ~\$.*                                                                # Windows, Office
    | \.directory | \.trash(?:-\d+)? | \.nfs[0-9a-f]{8,} | \.fuse_hidden[0-9a-f]+ | \.~lock\..*    # Linux
    | @eadir | \#recycle | \#snapshot | \.@__thumb | @recycle | @tmp | \.thumbnails
    | \.snapshots? | \.zfs                                                                 # network storages
    | \.sync_.*\.db.* | \.(?:owncloud|nextcloud)sync\.log.* | \.stfolder.* | \.stversions
    | \.dropbox(?:\.cache|\.attr)? | \.picasa\.ini                                          # clients
    | \.ipynb(?:_aml)?_checkpoints | \.git | \.svn | \.hg | \.cache | \.huggingface | \.dvc
    | \.idea | \.vscode                                                                     # tools of programmers
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_BEGINS = frozenset("._~$#@")
_PLAIN = (
    *("__macosx", "icon\r", "thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
    *("system volume information", "lost+found", "picasa.ini", "__pycache__"),
)
_SPELLINGS = frozenset(spelt for name in _PLAIN for spelt in (name, name.upper(), name.capitalize(), name.title()))


def is_junk_name(name: str) -> bool:
    """Whether a file or folder of this name is junk."""
    return name in _SPELLINGS or (name[:1] in _BEGINS and _NAMES.fullmatch(name) is not None)


class JunkFinder:
    """Tells which keys are junk, or lie in a folder that is. It remembers folders, so that many keys go fast."""

    def __init__(self) -> None:
        self._folders: dict[str, bool] = {"": False}

    def __call__(self, key: str) -> bool:
        """Whether this key is."""
        folder, _, name = key.rpartition("/")
        if name in _SPELLINGS or (name[:1] in _BEGINS and is_junk_name(name)):
            return True
        known = self._folders.get(folder)
        if known is None:
            known = self._folders[folder] = any(map(is_junk_name, folder.split("/")))
        return known
