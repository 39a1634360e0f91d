"""What the commands have in common: kinds of values, completion of locations, and options that several take."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Callable

    Text = click.ParamType[str]
else:
    Text = click.ParamType  # no generic class before click 8.4


class Chosen(NamedTuple):
    """What the command line says: the module of this room that is to run, and what is given to its ``Options``."""

    module: str
    given: dict[str, Any]


class Command(click.Command):
    """A command that gives what was chosen, and takes ``--debug`` too; within a group it is an action of the group."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        help_ = "Show where in the code an error came from."
        self.params.append(click.Option(["--debug"], is_flag=True, envvar="AI4OS_DATA_DEBUG", help=help_))

    def invoke(self, ctx: click.Context) -> Chosen:
        """Nothing runs here."""
        above = ctx.parent if ctx.parent is not None and ctx.parent.parent is not None else None
        if above is None:
            return Chosen(str(self.name), ctx.params)
        return Chosen(str(above.command.name), {"action": self.name, **ctx.params})


class Number(click.FloatRange):
    """A number that is finite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number of that kind.", param, ctx)
        return number


class Size(Text):
    """A size such as ``20GiB``, or ``auto``; it stays a text."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, if it is a size."""
        from ai4os_data.machine import is_size

        if value != "auto" and not is_size(value):
            self.fail(f"{value!r} is not a size: write 20GiB or auto", param, ctx)
        return str(value)


def _remotes(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The remotes that are configured, for a shell to complete."""
    from ai4os_data.locations import configured_names

    return [CompletionItem(name) for name in sorted(configured_names(os.environ)) if name.startswith(incomplete)]


def _locations(context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The same with a colon; the shell adds the directories."""
    remotes = [CompletionItem(f"{remote.value}:") for remote in _remotes(context, param, incomplete)]
    return [*remotes, CompletionItem(incomplete, type="dir")]


def _one_or_list(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> str | list[str]:
    return values[0] if len(values) == 1 else [*values]


location = click.argument("location", shell_complete=_locations)
run = click.argument("location", metavar="RUN", shell_complete=_locations)
remote = click.option(
    "--remote",
    metavar="NAME",
    shell_complete=_remotes,
    help="The rclone remote to use, if the location does not name it.",
)
pattern = click.option(
    "-p",
    "--pattern",
    metavar="GLOB",
    multiple=True,
    default=["**/*"],
    callback=_one_or_list,
    help="Only files that match, such as '**/*.jpg'; may be given several times.",
)
shrink = click.option(
    "--shrink",
    type=click.IntRange(1),
    metavar="PX",
    help="Shrink photographs so that the longest side has PX pixels.",
)
monitor = click.option(
    "--monitor", metavar="NAME", help="The metric that says which is the best; not needed if there is only one."
)
mode = click.option(
    "--mode",
    type=click.Choice(["min", "max"]),
    help="Whether low or high values are good; not needed for a loss or an error.",
)
quiet = click.option("-q", "--quiet", is_flag=True, help="Show no progress and no summary, only errors and warnings.")


def as_json(what: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """An option to print JSON."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what}.")


def prepare(shrink: int | None) -> Callable[[bytes], bytes] | None:
    """What is made of each file of a command that takes ``--shrink``."""
    if shrink is None:
        return None
    from ai4os_data import datasets  # not before: it takes Pillow

    return datasets.shrink(shrink)
