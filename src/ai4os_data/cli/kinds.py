"""What the commands have in common: kinds of values, completion of locations, and options that several take."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Callable

    Text = click.ParamType[str]
else:
    Text = click.ParamType  # no generic class before click 8.4

F = TypeVar("F", bound="Callable[..., Any]")


class Chosen(NamedTuple):
    """What the command line says: the module of this room that is to run, and what is given to its ``Options``."""

    module: str
    given: dict[str, Any]


class Command(click.Command):
    """A command that takes ``--debug`` too."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        help_ = "Show where in the code an error came from."
        self.params.append(click.Option(["--debug"], is_flag=True, envvar="AI4OS_DATA_DEBUG", help=help_))


class Number(click.FloatRange):
    """A number that is finite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number of that kind.", param, ctx)
        return number


class Size(Text):
    """A size such as ``20GiB``, or one of some words; it stays a text."""

    name = "size"

    def __init__(self, *words: str) -> None:
        self._words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, if it is a size."""
        from ai4os_data.machine import is_size

        if value not in self._words and not is_size(value):
            self.fail(" or ".join([f"{value!r} is not a size: write 20GiB", *self._words]), param, ctx)
        return str(value)


class Location(Text):
    """A location, whose remotes and directories a shell completes."""

    name = "location"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """The remotes that are configured; the shell adds the directories."""
        names = [f"{name}:" for name in _remotes() if f"{name}:".startswith(incomplete)]
        return [*map(CompletionItem, names), CompletionItem(incomplete, type="dir")]


class RemoteName(Text):
    """The name of a remote, which a shell completes."""

    name = "name"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """The remotes that are configured."""
        return [CompletionItem(name) for name in _remotes() if name.startswith(incomplete)]


def _remotes() -> list[str]:
    from ai4os_data.locations import configured_names

    return sorted(configured_names(os.environ))


def location(command: F) -> F:
    """Let a command take a location, and the remote that it is of."""
    return click.argument("location", type=Location())(_remote(command))


def run(command: F) -> F:
    """Let a command take the location of a run, and the remote that it is of."""
    return click.argument("location", type=Location(), metavar="RUN")(_remote(command))


def _remote(command: F) -> F:
    help_ = "The rclone remote to use, if the location does not name it."
    return click.option("--remote", type=RemoteName(), metavar="NAME", help=help_)(command)


def pattern(command: F) -> F:
    """Let a command take patterns."""
    help_ = "Only files that match, such as '**/*.jpg'; may be given several times."
    return click.option(
        "-p", "--pattern", metavar="GLOB", multiple=True, default=["**/*"], callback=_one_or_list, help=help_
    )(command)


def _one_or_list(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> str | list[str]:
    return values[0] if len(values) == 1 else [*values]


def shrink(command: F) -> F:
    """Let a command take the size of photographs."""
    help_ = "Shrink photographs so that the longest side has PX pixels."
    return click.option("--shrink", type=click.IntRange(1), metavar="PX", help=help_)(command)


def prepare(shrink: int | None) -> Callable[[bytes], bytes] | None:
    """What is made of each file of a command that takes ``--shrink``."""
    if shrink is None:
        return None
    from ai4os_data import datasets  # not before: it takes Pillow

    return datasets.shrink(shrink)


def quiet(command: F) -> F:
    """Let a command be quiet."""
    help_ = "Show no progress and no summary, only errors and warnings."
    return click.option("-q", "--quiet", is_flag=True, help=help_)(command)


def as_json(what: str) -> Callable[[F], F]:
    """Let a command print JSON."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what}.")
