"""The demo does what it says, on a server that is near."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

import ai4os_data
from ai4os_data.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = "import sys; from ai4os_data.cli.main import main; sys.exit(main())"
QUICK = ("demo", "--latency-ms", "1", "--workers", "2")
ROW = re.compile(r" +(\d+) +([\d,]+) +([\d,.]+) kB +([\d.]+)% +([\d.]+)%")


class Row(NamedTuple):
    """One line of the table."""

    epoch: int
    images_per_s: float
    network_kb: float
    hit_percent: float
    accuracy_percent: float


def python(code: str, *arguments: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    """Run some code in an interpreter of its own, with its temporary files in ``scratch``."""
    environ = {**os.environ, "TMPDIR": str(scratch)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True, env=environ
    )


def table(output: str) -> list[Row]:
    """The rows of the table."""
    matches = (ROW.fullmatch(line) for line in output.splitlines())
    return [
        Row(int(match[1]), *(float(match[group].replace(",", "")) for group in range(2, 6)))
        for match in matches
        if match
    ]


def test_demo_learns_and_its_later_epochs_come_from_the_cache(tmp_path: Path) -> None:
    """Three epochs suffice for 95 %; only the first one uses the network; no file of the demo is left."""
    answer = python(COMMAND, *QUICK, "--epochs", "3", scratch=tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "")
    first, *later = table(answer.stdout)
    assert [first.epoch, *(row.epoch for row in later)] == [1, 2, 3]
    assert (first.hit_percent, first.network_kb > 100) == (0, True)
    assert [(row.hit_percent, row.network_kb) for row in later] == [(100, 0), (100, 0)]
    assert later[-1].accuracy_percent >= 95
    assert list(tmp_path.glob("ai4os-data*")) == []


def test_demo_with_a_cache_that_is_too_small_hits_for_what_fits(tmp_path: Path) -> None:
    """The same share of every later epoch hits, as the bound allows, where LRU would hit almost never."""
    answer = python(COMMAND, *QUICK, "--epochs", "3", "--cache-size", "4MiB", scratch=tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "")
    first, second, third = table(answer.stdout)
    assert first.hit_percent == 0
    assert 20 < second.hit_percent < 60
    assert third.hit_percent == pytest.approx(second.hit_percent, abs=2)
    assert 0 < third.network_kb < first.network_kb


def test_demo_that_learns_too_little_fails_and_says_so(tmp_path: Path) -> None:
    """An accuracy below the promised one is exit code 1."""
    code = (
        "import sys; from ai4os_data.cli.demo import Options, run; "
        "sys.exit(run(Options(epochs=1, workers=0, latency_ms=0, cache_size='16MiB', least_accuracy=1.01)))"
    )
    answer = python(code, scratch=tmp_path)
    assert answer.returncode == 1
    assert re.fullmatch(r"The demo failed: test accuracy \d\d\.\d% is below 101%\.\n", answer.stderr)


@pytest.mark.parametrize(
    ("absent", "named"), [("sklearn", "scikit-learn"), ("wsgidav", "wsgidav"), ("cheroot", "cheroot")]
)
def test_demo_without_its_extra_names_it(tmp_path: Path, absent: str, named: str) -> None:
    """The error names the extra to install."""
    answer = python(f"import sys; sys.modules[{absent!r}] = None; {COMMAND}", *QUICK, scratch=tmp_path)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "pip install 'ai4os-data[demo]'" in answer.stderr
    assert named in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["demo", "--epochs", "0"], "Invalid value for '--epochs': 0 is not in the range x>=1."),
        (["demo", "--epochs", "many"], "Invalid value for '--epochs': 'many' is not a valid integer range."),
        (["demo", "--workers", "-1"], "Invalid value for '--workers': -1 is not in the range x>=0."),
        (["demo", "--latency-ms", "-5"], "Invalid value for '--latency-ms': -5.0 is not in the range x>=0."),
        (["demo", "--latency-ms", "nan"], "Invalid value for '--latency-ms': nan is no number of that kind."),
        (["doctor", "--deadline-s", "0"], "Invalid value for '--deadline-s': 0.0 is not in the range x>0."),
        (["doctor", "--deadline-s", "inf"], "Invalid value for '--deadline-s': inf is no number of that kind."),
        (["get", "rshare:birds", "--shrink", "0"], "Invalid value for '--shrink': 0 is not in the range x>=1."),
        (["get", "rshare:birds", "--size-limit", "much"], "'much' is not a size: write 20GiB or auto"),
        (["get"], "Missing argument 'LOCATION'."),
        (["get", "rshare:birds", "--patern", "*.jpg"], "--patern"),
        (["gte", "rshare:birds"], "No such command 'gte'"),
    ],
)
def test_setting_that_makes_no_sense_is_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parser refuses it with exit code 2, before anything starts."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The version is the installed one."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"ai4os-data {ai4os_data.__version__}\n"


@pytest.mark.parametrize("command", ["demo", "doctor"])
def test_help_shows_no_defaults_of_python(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """None and False, which mean nothing at a command line, are not shown."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = capsys.readouterr().out
    assert "[default: " in told
    assert "None" not in told
    assert "False" not in told


def test_cache_that_is_too_small_to_work_with_is_refused(tmp_path: Path) -> None:
    """The message is the library's own, without a traceback."""
    answer = python(COMMAND, *QUICK, "--cache-size", "10KiB", scratch=tmp_path)
    assert answer.returncode == 1
    assert answer.stderr.startswith("ai4os-data: a cache of 10,240 bytes")
