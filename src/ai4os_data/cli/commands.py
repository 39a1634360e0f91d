"""The commands of ``ai4os-data``, and what can be said to each. `main` runs what was chosen."""

from __future__ import annotations

import click

from ai4os_data.cli import kinds
from ai4os_data.cli.kinds import Command, Number, Size

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
@kinds.remote
@kinds.pattern
@kinds.shrink
@click.option(
    "--size-limit",
    type=Size(),
    default="auto",
    metavar="SIZE",
    help="The most that the copy may take, such as 20GiB. By default what the disk has free, less a reserve.",
)
@click.option("--overwrite", is_flag=True, help="Replace files in DIR that this copy did not write.")
@kinds.quiet
@kinds.as_json("one JSON object instead of the directory")
def get() -> None:
    """Copy LOCATION to the directory DIR, verified.

    What is there already is not fetched again, so the same command goes on after Ctrl-C, or brings the copy up to
    date. Without DIR, the copy gets a directory of its own. The last line of the output is the directory.
    """


@commands.command(cls=Command)
@kinds.location
@kinds.remote
@kinds.pattern
@kinds.shrink
@click.option("--cache", type=click.Path(), metavar="DIR", help='The cache, by default that of cache="auto".')
@click.option(
    "--cache-size",
    type=Size(),
    default="auto",
    metavar="SIZE",
    help="The cache's limit, such as 20GiB. By default what the disk has free, less a reserve.",
)
@kinds.quiet
@kinds.as_json("one JSON object")
def warm() -> None:
    """Bring the files of LOCATION into the cache, as far as there is room.

    A training with the same location and cache then reads them from the local disk. What is there already is not
    fetched again, so the same command goes on after Ctrl-C.
    """


@commands.command(cls=Command)
@kinds.location
@kinds.remote
@click.option("-r", "--recursive", is_flag=True, help="Show the files in all folders below it.")
@click.option("-l", "--long", "is_long", is_flag=True, help="Show sizes and dates too.")
@kinds.as_json("a JSON object for each name")
def ls() -> None:
    """Show the files and folders that are in LOCATION.

    The number of files and their size are shown at the end, beside the output.
    """


@commands.group(no_args_is_help=True)
def checkpoints() -> None:
    """Look at the checkpoints of a run, verify them, or download one.

    Nothing is changed on the storage, so a training may go on meanwhile.
    """


@checkpoints.command("list", cls=Command)
@kinds.run
@kinds.remote
@kinds.monitor
@kinds.mode
@kinds.as_json("a JSON object for each checkpoint")
def list_() -> None:
    """List the checkpoints of RUN, newest first.

    RUN is the location that was given to StorageCheckpoint. Those that wait in the spool of this machine are listed
    too. Their bytes are not looked at.
    """


@checkpoints.command("verify", cls=Command)
@kinds.run
@kinds.remote
@kinds.as_json("a JSON object for each checkpoint")
def verify() -> None:
    """Read every checkpoint of RUN on the storage, and compare it with its manifest.

    The exit code is 1 if one is damaged.
    """


@checkpoints.command("pull", cls=Command)
@kinds.run
@click.argument("directory", required=False, type=click.Path(), metavar="[DIR]")
@kinds.remote
@click.option("--step", type=click.IntRange(0), metavar="N", help="This step instead of the newest one.")
@click.option("--best", is_flag=True, help="The best one instead of the newest one.")
@kinds.monitor
@kinds.mode
@kinds.quiet
@kinds.as_json("one JSON object instead of the file")
def pull() -> None:
    """Download a checkpoint of RUN to the directory DIR, verified.

    Without DIR it is RUN-step-N in the current directory. The output is the file, which torch.load opens. What is there
    already is not fetched again.
    """


@commands.command(cls=Command)
@click.argument("location", required=False)
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
def doctor() -> None:
    """Check whether the storage is linked, mounted and fast, and say what to do.

    Sends some twenty small requests and one probe of 1 MiB, which is removed again. LOCATION is the linked storage by
    default. The exit code is 1 if something does not work.
    """


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
def demo() -> None:
    """Train on scanned digits over WebDAV, and show what the cache does.

    Starts a WebDAV server on this machine, uploads scanned digits to it, trains a small network on them through a
    bounded cache, and prints a table of the epochs. Nothing is left behind.
    """


@commands.group(no_args_is_help=True)
def cache() -> None:
    """Show the cache on this machine's disk, check it, or empty it.

    A training may use the cache meanwhile. DIRECTORY is where it lies, by default those that cache="auto" uses.
    """


_directory = click.argument("directory", required=False, type=click.Path())


@cache.command("info", cls=Command)
@_directory
def info() -> None:
    """Show its limit, what it holds, and why it is small."""


@cache.command("verify", cls=Command)
@_directory
def verify_cache() -> None:
    """Read every entry, and remove those that are damaged; the exit code is 1 if there were some."""


@cache.command("clear", cls=Command)
@_directory
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def clear() -> None:
    """Remove every entry that is not in use as a local path, and the kept listings."""
