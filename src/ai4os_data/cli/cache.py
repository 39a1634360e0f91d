"""The cache command: what a cache directory holds, whether it is intact, and how to empty it."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ai4os_data.cache import SMALLEST_BYTES, DiskCache, Report, directories, existing, report
from ai4os_data.cli.output import say
from ai4os_data.machine import shown_size

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Options:
    """What is to be done; the names are those of the command line."""

    action: Literal["info", "clear", "verify"]
    directory: str | None = None
    yes: bool = False


def run(options: Options) -> int:
    """Run the action on the directory that is named, or on those that "auto" uses; gives the exit code.

    Raises:
        CacheError: there is no cache there.
    """
    wanted = directories(os.environ) if options.directory is None else [existing(options.directory)]
    action = {"info": _info, "clear": _clear, "verify": _verify}[options.action]
    return max(action(directory, options) for directory in wanted)


def _info(directory: str, _: Options) -> int:
    found = report(directory)
    say(directory)
    for what, told in _lines(found):
        say(f"  {what:<10}{told}")
    return 0


def _lines(found: Report) -> Iterator[tuple[str, str]]:
    if found.limit_bytes is None:
        yield "limit", "not known: nothing was stored yet"
    else:
        yield "limit", f"{shown_size(found.limit_bytes)} ({found.limit_bytes:,} bytes), as its last user gave it"
    yield "used", f"{shown_size(found.used_bytes)}, bookkeeping included"
    yield "free", f"{shown_size(found.free_bytes)} on its disk"
    yield "entries", f"{found.entries:,} files of datasets, {shown_size(found.entries_bytes)}"
    yield "listings", f"{found.listings:,} kept, of locations"
    if found.processes:
        yield "in use", f"by {found.processes} {'processes' if found.processes > 1 else 'process'} just now"
    for reason in _what_makes_it_small(found):
        yield "note", reason


def _what_makes_it_small(found: Report) -> Iterator[str]:
    if found.ceded_bytes:
        until = time.strftime("%H:%M", time.localtime(found.ceded_until))
        yield f"{shown_size(found.ceded_bytes)} of the limit are left to a checkpoint or another program until {until}"
    if found.auto_bytes is None:
        yield 'the disk is nearly full: size_limit="auto" finds no room here'
    elif found.limit_bytes is not None and found.limit_bytes < found.auto_bytes // 2:
        yield f'its limit was given: size_limit="auto" would give {shown_size(found.auto_bytes)}'
    elif found.limit_bytes is not None and found.limit_bytes > found.auto_bytes * 2:
        yield f'the disk has filled up: size_limit="auto" would give {shown_size(found.auto_bytes)} now'


def _clear(directory: str, options: Options) -> int:
    before = report(directory)
    if not options.yes and not _is_confirmed(before):
        return 1
    _opened(before).clear()
    after = report(directory)
    stays = f"; {after.entries:,} entries are in use, and stay" if after.entries else ""
    gone = before.entries - after.entries
    size = shown_size(before.entries_bytes - after.entries_bytes)
    say(f"{directory}: {gone:,} entries removed ({size}){stays}")
    return 0


def _is_confirmed(found: Report) -> bool:
    question = f"Remove {found.entries:,} entries ({shown_size(found.entries_bytes)}) from {found.directory}?"
    if not sys.stdin.isatty():
        print(f"{question} Give --yes if nobody can be asked. Nothing was removed.", file=sys.stderr)
        return False
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() in {"y", "yes"}:
        return True
    say("Nothing was removed.")
    return False


def _verify(directory: str, _: Options) -> int:
    found = _opened(report(directory)).verify()
    damaged = f"{found['damaged']:,} damaged, and removed: they are fetched again when they are needed"
    say(f"{directory}: {found['entries']:,} entries read, {damaged if found['damaged'] else 'all intact'}")
    return 1 if found["damaged"] else 0


def _opened(found: Report) -> DiskCache:
    """The cache under a limit that evicts nothing, and that needs no room on its disk."""
    return DiskCache(found.directory, size_limit=max(found.limit_bytes or 0, 2 * found.used_bytes, SMALLEST_BYTES))
