"""The command ``ai4os-data``: reads the command line and starts what it names."""

from __future__ import annotations

import argparse
import math
import sys
from contextlib import suppress
from importlib import import_module, metadata
from typing import TYPE_CHECKING, TypeVar

from ai4os_data.cli.output import silence
from ai4os_data.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T", int, float)

_INTERRUPTED, _PIPE_CLOSED = 130, 141  # as a shell has it: 128 and the number of the signal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    try:
        given = vars(_parser().parse_args(arguments))
        # Only here: the demo takes torch, and no other command should wait for that.
        command = import_module(f"ai4os_data.cli.{given.pop('command')}")
        return int(command.run(command.Options(**given)))
    except (StorageError, ImportError) as error:
        print(f"ai4os-data: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ai4os-data: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        return _PIPE_CLOSED
    finally:
        _flush()


def _flush() -> None:
    """Flush here, so that a closed pipe is found now: at its end Python would print an error of its own."""
    try:
        if sys.stdout is not None:  # closed by the shell, as by >&-
            sys.stdout.flush()
    except OSError:
        silence()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ai4os-data",
        description="PyTorch data access for AI4OS: a local cache, and checkpoints that survive.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {metadata.version('ai4os-data')}")
    commands = parser.add_subparsers(title="commands", required=True)
    demo = commands.add_parser(
        "demo",
        help="train on scanned digits over WebDAV, and show what the cache does",
        description="Starts a WebDAV server on this machine, uploads scanned digits to it, trains a small "
        "network on them through a bounded cache, and prints a table of the epochs. Nothing is left behind.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--epochs", type=_number(int, 1), default=6, help="how often to go over the images")
    demo.add_argument("--workers", type=_number(int, 0), default=2, help="processes of each DataLoader")
    latency = "how many milliseconds the server waits before each answer"
    demo.add_argument("--latency-ms", type=_number(float, 0), default=20.0, help=latency)
    demo.add_argument("--cache-size", default="16MiB", help="the cache's limit; at 4MiB only part of the images fit")
    demo.set_defaults(command="demo")
    doctor = commands.add_parser(
        "doctor",
        help="check whether the storage is linked, mounted and fast, and say what to do",
        description="Sends some twenty small requests and one probe of 1 MiB, which is removed again. The exit code "
        "is 1 if something does not work.",
    )
    doctor.add_argument("location", nargs="?", help="what to check; by default the linked storage")
    deadline = "how many seconds each check may take (default: %(default)g)"
    doctor.add_argument("--deadline-s", type=_number(float, 0, itself=False), default=20.0, help=deadline)
    doctor.add_argument(
        "--read-only", dest="writes", action="store_false", help="write nothing; check what the folder shows"
    )
    doctor.set_defaults(command="doctor")
    _add_cache(commands)
    return parser


def _add_cache(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    cache = commands.add_parser(
        "cache",
        help="show the cache on this machine's disk, check it, or empty it",
        description="A training may use the cache meanwhile.",
    )
    actions = cache.add_subparsers(title="actions", required=True)
    for action, help_ in (
        ("info", "show its limit, what it holds, and why it is small"),
        ("verify", "read every entry, and remove those that are damaged; the exit code is 1 if there were some"),
        ("clear", "remove every entry that is not in use as a local path, and the kept listings"),
    ):
        one = actions.add_parser(action, help=help_, description=f"{help_[0].upper()}{help_[1:]}.")
        one.add_argument("directory", nargs="?", help='by default those that cache="auto" uses on this machine')
        if action == "clear":
            one.add_argument("-y", "--yes", action="store_true", help="do not ask")
        one.set_defaults(command="cache", action=action, yes=False)


def _number(kind: type[T], least: int, *, itself: bool = True) -> Callable[[str], T]:
    """A function that reads a number from the command line, and refuses one that is too small or not finite."""

    def read(text: str) -> T:
        with suppress(ValueError):
            number = kind(text)
            if (number >= least if itself else number > least) and number < math.inf:
                return number
        raise argparse.ArgumentTypeError(f"{'at least' if itself else 'more than'} {least}, not {text}")

    return read
