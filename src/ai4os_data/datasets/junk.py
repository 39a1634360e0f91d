"""Junk: files that systems leave beside a user's own, such as ``Thumbs.db`` and ``__MACOSX``. They are no samples."""

from __future__ import annotations

import re
from functools import lru_cache

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
_PLAIN = frozenset(
    {
        *(
            "__macosx",
            "icon\r",
            "thumbs.db",
            "thumbs.db:encryptable",
            "ehthumbs.db",
            "ehthumbs_vista.db",
            "desktop.ini",
        ),
        *("system volume information", "lost+found", "picasa.ini", "__pycache__"),
    }
)


def is_junk(key: str) -> bool:
    """Whether a key is that of junk, or lies in a folder that is junk."""
    folder, _, name = key.rpartition("/")
    return _is_junk_name(name) or names_junk(folder)


@lru_cache(maxsize=1024)  # keys are in order, so that those of one folder follow each other
def names_junk(path: str) -> bool:
    """Whether one of the names in a path, or in a glob, is a name of junk."""
    return any(map(_is_junk_name, path.split("/")))


def _is_junk_name(name: str) -> bool:
    return name.lower() in _PLAIN or (name[:1] in _BEGINS and _NAMES.fullmatch(name) is not None)
