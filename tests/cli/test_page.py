"""The page of the command line has every command, option and exit code, and none that is not there."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
import pytest

from ai4os_data.cli import main as running
from ai4os_data.cli.commands import commands
from tests.support.tool import tool

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results" / "folders.json"
_SECTION = re.compile(r"^## `ai4os-data ([^`]*)`\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_OPTION = re.compile(r"^\| ((?:`-[^`]*`(?:, )?)+) \|", re.MULTILINE)
_ROW = re.compile(r"^\| .* \| .* \| (.*) \| (?:higher|lower) \| `(.*)` \|$", re.MULTILINE)


class Described(NamedTuple):
    """A command: what follows its name, and its options."""

    arguments: str
    options: set[str]


def leaves(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """Each command that runs something, by its full name."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def documented(page: str) -> dict[str, Described]:
    """What a page says of each command."""
    found = {}
    for title, text in _SECTION.findall(page):
        name = " ".join(re.findall(r"(?:^|(?<= ))[a-z]+(?= |$)", title))
        options = {word for cell in _OPTION.findall(text) for word in re.findall(r"`(-[\w-]+)", cell)}
        found[name] = Described(title[len(name) :].strip(), options)
    return found


def real(group: click.Group) -> dict[str, Described]:
    """What the parser takes."""
    found = {}
    for name, command in leaves(group):
        context = click.Context(command)
        arguments = [param for param in command.params if isinstance(param, click.Argument)]
        options = {word for param in command.params if isinstance(param, click.Option) for word in param.opts}
        found[name] = Described(" ".join(param.make_metavar(context) for param in arguments), options)
    return found


def test_the_page_has_every_command_and_option_and_no_other() -> None:
    """The real parser is compared with the page, both ways; each option has a help text too."""
    assert documented(PAGE) == real(commands)
    for name, command in leaves(commands):
        assert command.help, name
        assert all(param.help for param in command.params if isinstance(param, click.Option)), name


def test_what_is_not_documented_is_found() -> None:
    """A check that could not fail would say nothing: a new option, and a new command, are missed on the page."""
    group = click.Group(commands={name: command for name, command in commands.commands.items() if name == "ls"})
    page = PAGE[PAGE.index("## `ai4os-data ls") : PAGE.index("## `ai4os-data checkpoints list")]
    assert documented(page) == real(group)
    group.commands["new"] = click.Command("new")
    assert documented(page) != real(group)
    del group.commands["new"]
    ls = commands.commands["ls"]
    group.commands["ls"] = click.Command("ls", params=[*ls.params, click.Option(["--new"])])
    assert documented(page) != real(group)
    assert documented(page.replace("`--long`", "`--lang`")) != real(click.Group(commands={"ls": ls}))


def test_the_page_has_every_exit_code() -> None:
    """Those of errors, and those that the shell's convention gives."""
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    of_errors = {code for _, code in running._EXIT_CODES}
    assert listed == {0, 1, 2, running._INTERRUPTED, running._PIPE_CLOSED} | of_errors


def test_figures_are_those_of_the_results() -> None:
    """Nothing is claimed that was not measured; what was measured beside ``rclone copy`` is shown."""
    claimed = {name: figure for figure, name in _ROW.findall(PAGE)}
    measured = json.loads(RESULTS.read_text(encoding="utf-8"))["ratios"] if RESULTS.exists() else {}
    assert claimed == {name: f"{measured[name]:.2f}" for name in claimed}
    assert {name for name in measured if name.startswith("copy_vs_rclone")} <= claimed.keys()


def test_lines_of_the_page_are_understood() -> None:
    """What the page shows is taken by the parser."""
    lines = re.findall(r"^(?:\w+=\$\()?ai4os-data ([^#\n)|]*)", PAGE, re.MULTILINE)
    assert len(lines) >= 7
    for line in lines:
        assert running._chosen(line.replace('"', "").split()).module in commands.commands


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_given(shell: str) -> None:
    """The line of the page gives a script; bash takes its own."""
    assert f"_AI4OS_DATA_COMPLETE={shell}_source ai4os-data" in PAGE
    script = tool(environ={"_AI4OS_DATA_COMPLETE": f"{shell}_source"})
    assert script.returncode == 0
    assert "ai4os-data" in script.stdout
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script.stdout, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("ai4os-data che", {"checkpoints"}),
        ("ai4os-data checkpoints ", {"list", "verify", "pull"}),
        ("ai4os-data get --ov", {"--overwrite"}),
        ("ai4os-data get rsh", {"rshare:"}),
        ("ai4os-data get x --remote rs", {"rshare"}),
        ("ai4os-data checkpoints list x --mode m", {"min", "max"}),
    ],
)
def test_a_shell_completes_commands_options_and_remotes(line: str, completed: set[str]) -> None:
    """As bash asks for it."""
    words = line.split(" ")
    environ = {
        "_AI4OS_DATA_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_RSHARE_TYPE": "webdav",
        "RCLONE_CONFIG_RSHARE_URL": "http://127.0.0.1/",
    }
    answer = tool(environ=environ)
    found = dict(one.split(",", 1)[::-1] for one in answer.stdout.splitlines())
    assert {value for value, kind in found.items() if kind == "plain"} == completed
