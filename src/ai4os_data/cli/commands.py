"""The commands of ``ai4os-data``, and what can be said to each. Nothing runs here: `main` imports what was chosen."""

from __future__ import annotations

from typing import Any

import click

from ai4os_data.cli import kinds
from ai4os_data.cli.kinds import Chosen, Command, Number, Size

PROGRAM = "ai4os-data"


@click.group(
    PROGRAM, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, no_args_is_help=True
)
@click.version_option(package_name="ai4os-data", message="%(prog)s %(version)s")
def commands() -> None:
    """Data and checkpoints on AI4OS storage: copy, look, check.

    A LOCATION is what you type elsewhere: rshare:path (any remote of rclone), /storage/path, a WebDAV address, a
    directory, or a URL of fsspec.
    """


@commands.command(cls=Command)
@kinds.location
@click.argument("directory", required=False, type=click.Path(), metavar="[DIR]")
@kinds.pattern
@kinds.shrink
@click.option(
    "--size-limit",
    type=Size("auto"),
    default="auto",
    metavar="SIZE",
    help="The most that the copy may take, such as 20GiB. By default what the disk has free, less a reserve.",
)
@click.option("--overwrite", is_flag=True, help="Replace files in DIR that this copy did not write.")
@kinds.quiet
@kinds.as_json("one JSON object instead of the directory")
def get(**given: Any) -> Chosen:
    """Copy LOCATION to the directory DIR, verified.

    What is there already is not fetched again, so the same command goes on after Ctrl-C, or brings the copy up to
    date. Without DIR, the copy gets a directory of its own. The last line of the output is the directory.
    """
    return Chosen("get", given)


@commands.command(cls=Command)
@kinds.location
@kinds.pattern
@kinds.shrink
@click.option("--cache", type=click.Path(), metavar="DIR", help='The cache, by default that of cache="auto".')
@click.option(
    "--cache-size",
    type=Size("auto"),
    default="auto",
    metavar="SIZE",
    help="The cache's limit, such as 20GiB. By default what the disk has free, less a reserve.",
)
@kinds.quiet
@kinds.as_json("one JSON object")
def warm(**given: Any) -> Chosen:
    """Bring the files of LOCATION into the cache, as far as there is room.

    A training with the same location and cache then reads them from the local disk. What is there already is not
    fetched again, so the same command goes on after Ctrl-C.
    """
    return Chosen("warm", given)


@commands.command(cls=Command)
@kinds.location
@click.option("-r", "--recursive", is_flag=True, help="Show the files in all folders below it.")
@click.option("-l", "--long", "is_long", is_flag=True, help="Show sizes and dates too.")
@kinds.as_json("a JSON object for each name")
def ls(**given: Any) -> Chosen:
    """Show the files and folders that are in LOCATION.

    The number of files and their size are shown at the end, beside the output.
    """
    return Chosen("ls", given)


@commands.group(no_args_is_help=True)
def checkpoints() -> None:
    """Look at the checkpoints of a run, verify them, or download one.

    Nothing is changed on the storage, so a training may go on meanwhile.
    """


def _metric(command: kinds.F) -> kinds.F:
    help_ = "Whether low or high values are good; not needed for a loss or an error."
    command = click.option("--mode", type=click.Choice(["min", "max"]), help=help_)(command)
    help_ = "The metric that says which is the best; not needed if there is only one."
    return click.option("--monitor", metavar="NAME", help=help_)(command)


@checkpoints.command("list", cls=Command)
@kinds.run
@_metric
@kinds.as_json("a JSON object for each checkpoint")
def list_(**given: Any) -> Chosen:
    """List the checkpoints of RUN, newest first.

    RUN is the location that was given to StorageCheckpoint. Those that wait in the spool of this machine are listed
    too. Their bytes are not looked at.
    """
    return Chosen("checkpoints", {"action": "list", **given})


@checkpoints.command(cls=Command)
@kinds.run
@kinds.as_json("a JSON object for each checkpoint")
def verify(**given: Any) -> Chosen:
    """Read every checkpoint of RUN on the storage, and compare it with its manifest.

    The exit code is 1 if one is damaged.
    """
    return Chosen("checkpoints", {"action": "verify", **given})


@checkpoints.command("pull", cls=Command)
@kinds.run
@click.argument("directory", required=False, type=click.Path(), metavar="[DIR]")
@click.option("--step", type=click.IntRange(0), metavar="N", help="This step instead of the newest one.")
@click.option("--best", is_flag=True, help="The best one instead of the newest one.")
@_metric
@kinds.quiet
@kinds.as_json("one JSON object instead of the file")
def pull_(**given: Any) -> Chosen:
    """Download a checkpoint of RUN to the directory DIR, verified.

    Without DIR it is RUN-step-N in the current directory. The output is the file, which torch.load opens. What is there
    already is not fetched again.
    """
    return Chosen("checkpoints", {"action": "pull", **given})


@commands.command(cls=Command)
@click.argument("location", required=False, type=kinds.Location())
@click.option(
    "--deadline-s",
    type=Number(0, min_open=True),
    default=20.0,
    metavar="SECONDS",
    show_default=True,
    help="How long each check may take.",
)
@click.option(
    "--read-only", "writes", flag_value=False, default=True, help="Write nothing; check what the folder shows."
)
def doctor(**given: Any) -> Chosen:
    """Check whether the storage is linked, mounted and fast, and say what to do.

    Sends some twenty small requests and one probe of 1 MiB, which is removed again. LOCATION is the linked storage by
    default. The exit code is 1 if something does not work.
    """
    return Chosen("doctor", given)


@commands.command(cls=Command)
@click.option("--epochs", type=click.IntRange(1), default=6, show_default=True, help="How often to go over the images.")
@click.option("--workers", type=click.IntRange(0), default=2, show_default=True, help="Processes of each DataLoader.")
@click.option(
    "--latency-ms",
    type=Number(0),
    default=20.0,
    show_default=True,
    help="How many milliseconds the server waits before each answer.",
)
@click.option(
    "--cache-size",
    default="16MiB",
    metavar="SIZE",
    show_default=True,
    help="The cache's limit; at 4MiB only part of the images fit.",
)
def demo(**given: Any) -> Chosen:
    """Train on scanned digits over WebDAV, and show what the cache does.

    Starts a WebDAV server on this machine, uploads scanned digits to it, trains a small network on them through a
    bounded cache, and prints a table of the epochs. Nothing is left behind.
    """
    return Chosen("demo", given)


@commands.group(no_args_is_help=True)
def cache() -> None:
    """Show the cache on this machine's disk, check it, or empty it.

    A training may use the cache meanwhile. DIRECTORY is where it lies, by default those that cache="auto" uses.
    """


def _cache_action(name: str, help_: str) -> click.Command:
    command = Command(name, help=f'{help_}\n\nDIRECTORY is where it lies, by default those that cache="auto" uses.')
    command.params.insert(0, click.Argument(["directory"], required=False, type=click.Path()))
    command.callback = lambda **given: Chosen("cache", {"action": name, **given})
    cache.add_command(command)
    return command


_cache_action("info", "Show its limit, what it holds, and why it is small.")
_cache_action("verify", "Read every entry, and remove those that are damaged; the exit code is 1 if there were some.")
_cache_action("clear", "Remove every entry that is not in use as a local path, and the kept listings.").params.append(
    click.Option(["-y", "--yes"], is_flag=True, help="Do not ask.")
)
