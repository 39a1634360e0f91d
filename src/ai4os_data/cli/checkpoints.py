"""The checkpoints command: which checkpoints a run has, whether they are intact, and one of them as a local file.

It looks from outside, so a training may save meanwhile.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

import click

from ai4os_data import errors
from ai4os_data.checkpoint import MANIFEST, Retention, RunView
from ai4os_data.cli.looking import open_briefly
from ai4os_data.cli.output import note, say
from ai4os_data.cli.progress import shown
from ai4os_data.cli.pulling import pull
from ai4os_data.datasets import enumerated
from ai4os_data.machine import shown_size
from ai4os_data.stores import open_store

if TYPE_CHECKING:
    from ai4os_data.checkpoint import CheckpointName, Found
    from ai4os_data.stores import Store

_HEADINGS = ("step", "attempt", "saved", "size", "where", "notes", "metrics")
_ISO = "%Y-%m-%dT%H:%M:%SZ"
_PARTS_OF_MANIFEST = 3  # attempt, checkpoint, file; what comes before them is the folder of a run


@dataclass(frozen=True)
class Options:
    """What is to be done with which run; the names are those of the command line."""

    action: Literal["list", "verify", "pull"]
    location: str
    remote: str | None = None
    directory: str | None = None
    step: int | None = None
    best: bool = False
    monitor: str | None = None
    mode: Literal["min", "max"] | None = None
    quiet: bool = False
    as_json: bool = False


def run(options: Options) -> int:
    """Run the action; gives the exit code.

    Raises:
        LocationError: there is no such run, or no such checkpoint in it.
        StorageError: it cannot be read.
    """
    opened = open_briefly if options.action == "list" else open_store
    store = opened(options.location, options.remote)
    view = RunView(store, os.environ)
    if not (view.found() or view.on_store() or view.unfinished()):
        raise _no_run(store)
    return {"list": _list, "verify": _verify, "pull": _pull}[options.action](options, store, view)


def _no_run(store: Store) -> errors.LocationError:
    """What to say of a location without checkpoints: runs may be in folders below it."""
    parts = (entry.key.split("/") for entry in store.list_below(""))
    runs = sorted({"/".join(one[:-3]) for one in parts if one[-1] == MANIFEST and len(one) > _PARTS_OF_MANIFEST})
    advice = f"runs are in folders of it: {enumerated(map(repr, runs))}" if runs else "check the spelling"
    return errors.LocationError(f"{store.location}: there is no checkpoint here; {advice}")


# --- list


def _list(options: Options, _: Store, view: RunView) -> int:
    found = view.found()
    best, latest = _best(options, found), view.latest()
    rows = [_row(one, latest, best) for one in found]
    if options.as_json:
        for row in rows:
            say(json.dumps(row))
        return 0
    table = [_HEADINGS, *map(_cells, found, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        say("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    damaged = set(view.on_store()) - {one.checkpoint.name for one in found}
    for name in sorted(damaged):
        note(f"{name}: its manifest is damaged, and a restore passes it over")
    if unfinished := view.unfinished():
        note(f"{enumerated(map(str, unfinished))}: no manifest, since the upload goes on or was cut off")
    return 0


def _row(found: Found, latest: CheckpointName | None, best: CheckpointName | None) -> dict[str, Any]:
    one = found.checkpoint
    return {
        "step": one.step,
        "attempt": one.attempt,
        "name": str(one.name),
        "saved": None if found.modified_s is None else time.strftime(_ISO, time.gmtime(found.modified_s)),
        "size_bytes": one.size_bytes,
        "on_storage": one.on_store,
        "in_spool": one.in_spool,
        "is_whole": found.is_whole,
        "is_latest": one.name == latest,
        "is_best": one.name == best,
        "metrics": one.metrics,
    }


def _cells(found: Found, row: dict[str, Any]) -> tuple[str, ...]:
    saved = found.modified_s
    notes = {"latest": row["is_latest"], "best": row["is_best"], "INCOMPLETE": not row["is_whole"]}
    return (
        str(row["step"]),
        str(row["attempt"]),
        "-" if saved is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(saved)),
        shown_size(row["size_bytes"]),
        "storage" if row["on_storage"] else "spool only",
        ", ".join(word for word, holds in notes.items() if holds),
        " ".join(f"{name}={value:.6g}" for name, value in row["metrics"].items()),
    )


def _best(options: Options, found: list[Found]) -> CheckpointName | None:
    """The best by the metric that is said, or by the only one that there is; None if nothing says so."""
    metrics = {one.checkpoint.name: one.checkpoint.metrics for one in found}
    measured = sorted({name for each in metrics.values() for name in each})
    is_said = options.monitor is not None or options.best
    monitor = options.monitor or (measured[0] if len(measured) == 1 else None)
    if monitor is None or monitor not in measured:
        if not is_said:
            return None
        there = f"the checkpoints have {', '.join(measured)}" if measured else "the checkpoints have no metrics"
        raise click.UsageError(f"--monitor NAME says which metric decides; {there}.")
    try:
        retention = Retention(keep_best=1, monitor=monitor, mode=options.mode)
    except ValueError as error:
        if not is_said:
            return None
        advice = "give --mode max if high values are good (an accuracy), --mode min if low ones are (a loss)"
        raise click.UsageError(f"{monitor!r} does not say which values are good: {advice}.") from error
    return next(iter(retention.kept_for_good([*metrics], metrics)), None)


# --- verify


def _verify(options: Options, store: Store, view: RunView) -> int:
    wrong = 0
    names = view.on_store()
    for name in names:
        reason = view.wrong_with(name)
        if reason is not None and name not in RunView(store, os.environ).on_store():
            continue  # it gave way to a newer one meanwhile
        wrong += reason is not None
        if options.as_json:
            say(json.dumps({"name": str(name), "step": name.step, "attempt": name.attempt.number, "damage": reason}))
        else:
            say(f"{'  ok' if reason is None else 'FAIL'}  step {name.step}, {name}{f': {reason}' if reason else ''}")
    if not options.as_json:
        count = f"{len(names):,} checkpoint{'s' * (len(names) != 1)} on {store.location}"
        note(f"{count}: {f'{wrong:,} damaged, which a restore passes over' if wrong else 'all intact'}")
    return 1 if wrong else 0


# --- pull


def _pull(options: Options, store: Store, view: RunView) -> int:
    if options.best and options.step is not None:
        raise click.UsageError("--step and --best exclude each other.")
    begun_s = time.monotonic()
    names = _wanted(options, store, view)
    for number, name in enumerate(names, 1):
        directory = options.directory or f"{_name_of(store)}-step-{name.step}"
        try:
            with shown(f"step {name.step}", quiet=options.quiet) as show:
                pulled = pull(store, view, name, directory, show)
        except (errors.IntegrityError, errors.NotFoundError) as error:
            if number == len(names):
                raise
            note(f"ai4os-data: step {name.step}, {name}, is passed over: {error}")
        else:
            break
    metrics = view.manifest(name).metrics
    if not options.quiet:
        measured = "".join(f", {metric} {value:.6g}" for metric, value in metrics.items())
        note(f"step {name.step} of attempt {name.attempt.number}{measured}: {shown_size(pulled.size_bytes)}, verified")
    result = {
        "path": directory,
        "files": pulled.paths,
        "step": name.step,
        "attempt": name.attempt.number,
        "name": str(name),
        "metrics": metrics,
        "bytes": pulled.size_bytes,
        "fetched": pulled.fetched,
        "seconds": round(time.monotonic() - begun_s, 3),
    }
    say(json.dumps(result) if options.as_json else "\n".join(pulled.paths))
    return 0


def _name_of(store: Store) -> str:
    return unquote(store.location).rstrip("/").rpartition("/")[2].rpartition(":")[2] or "run"


def _wanted(options: Options, store: Store, view: RunView) -> list[CheckpointName]:
    """Those that will do, best first; the first one that is intact is taken.

    Raises:
        LocationError: the storage has none.
    """
    there, candidates = view.on_store(), view.candidates()
    if options.best:
        best = _best(options, [one for one in view.found() if one.checkpoint.on_store])
        wanted = [best] if best is not None else []
    elif options.step is not None:
        others = [name for name in there if name not in candidates]
        wanted = [name for name in (*candidates, *others) if name.step == options.step]
    else:
        wanted = candidates
        latest = view.latest()
        if latest is not None and latest not in there:
            note(f"step {latest.step} is in the spool of this machine only; its run sends it to the storage")
    if not wanted:
        steps = enumerated(map(str, sorted({name.step for name in there}))) or "none"
        what = "such checkpoint" if options.step is None else f"checkpoint of step {options.step}"
        raise errors.LocationError(f"{store.location}: there is no {what} on the storage; the steps there are: {steps}")
    return wanted
