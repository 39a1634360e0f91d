"""The get command: a location as a directory on the local disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ai4os_data.cli import kinds
from ai4os_data.cli.output import note, say
from ai4os_data.cli.progress import shown
from ai4os_data.folders import Progress, copied_to
from ai4os_data.machine import shown_size

if TYPE_CHECKING:
    from ai4os_data.folders import LocalCopy


@dataclass(frozen=True)
class Options:
    """What is to be copied, and how; the names are those of the command line."""

    location: str
    directory: str | None = None
    remote: str | None = None
    pattern: str | list[str] = "**/*"
    shrink: int | None = None
    size_limit: str = "auto"
    overwrite: bool = False
    quiet: bool = False
    as_json: bool = False


def run(options: Options) -> int:
    """Make the copy; gives the exit code.

    Raises:
        StorageError: as for `local_copy`.
    """
    came = Progress()
    with shown("get", quiet=options.quiet) as show:

        def keep_and_show(progress: Progress) -> None:
            nonlocal came
            came = progress
            show(progress)

        copy = copied_to(
            options.location,
            options.directory,
            keep_and_show,
            remote=options.remote,
            pattern=options.pattern,
            prepare=kinds.prepare(options.shrink),
            size_limit=options.size_limit,
            overwrite=options.overwrite,
        )
    if not options.quiet:
        note(_summary(copy, came.came_bytes))
    say(json.dumps({"path": str(copy.path), **copy.stats()}) if options.as_json else copy.path)
    return 0


def _summary(copy: LocalCopy, came_bytes: int) -> str:
    found = copy.stats()
    seconds = found["seconds"]
    removed = f", {found['removed']:,.0f} removed" if found["removed"] else ""
    rate = f" ({shown_size(came_bytes)}, {shown_size(int(came_bytes / seconds))}/s)" if came_bytes else ""
    came = f"{found['fetched']:,.0f} fetched{rate}{removed}, in {seconds:.1f} s"
    return f"{found['files']:,.0f} files, {shown_size(copy.size_bytes)}: {came}"
