"""Patterns choose the keys that pathlib's globs would choose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ai4os_data.patterns import matcher

if TYPE_CHECKING:
    from pathlib import Path

KEYS = (
    "top.jpg",
    "TOP.JPG",
    ".hidden.jpg",
    "a/1.jpg",
    "a/2.jpg",
    "a/10.jpg",
    "a/1.png",
    "a/[1].jpg",
    "a/^.jpg",
    "a/!.jpg",
    "a/].jpg",
    "a/&.jpg",
    "a/-.jpg",
    "a/back\\slash.jpg",
    "a/b/1.jpg",
    "a/b/c/1.jpg",
    "b/new\nline.jpg",
    "b/with space (1)+$.jpg",
    "b/größe.jpg",
    "images/x/1.jpg",
    "masks/x/1.png",
)


@pytest.mark.parametrize(
    "pattern",
    [
        "*",
        "*.jpg",
        "*/*.jpg",
        "**/*.jpg",
        "**/1.jpg",
        "a/**/*.jpg",
        "a/**/c/*.jpg",
        "**/b/**/*.jpg",
        "images/*/*.jpg",
        "a/?.jpg",
        "a/[0-9].jpg",
        "a/[0-9][0-9].jpg",
        "a/[!0-9].jpg",
        "a/[!1].*",
        "a/[[]1].jpg",
        "a/[]].jpg",
        "a/[!]].jpg",
        "a/[^1].jpg",
        "a/[&&x].jpg",
        "a/[+--].jpg",
        "a/[\\\\x]*.jpg",
        "a[!x]1.jpg",
        "a[+-9]1.jpg",
        "a/back\\slash.jpg",
        "a/[1.jpg",
        "b/new*line.jpg",
        "b/with space (1)+$.jpg",
        "b/gr*e.jpg",
        "nothing/*.jpg",
    ],
)
def test_pattern_matches_what_pathlib_globs(pattern: str, tmp_path: Path) -> None:
    """The keys that match are the files that ``Path.glob`` finds in a real folder."""
    for key in KEYS:
        file = tmp_path / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob(pattern) if path.is_file())
    assert sorted(filter(matcher(pattern), KEYS)) == found


@pytest.mark.parametrize("pattern", ["**/*", "**"])
def test_default_pattern_takes_every_key(pattern: str) -> None:
    """Two stars alone are any number of folders with any file in them."""
    assert list(filter(matcher(pattern), KEYS)) == list(KEYS)


def test_two_stars_at_the_end_take_all_below_a_folder() -> None:
    """``a/**`` is every file at any depth below ``a``, and none beside it."""
    assert list(filter(matcher("a/b/**"), KEYS)) == ["a/b/1.jpg", "a/b/c/1.jpg"]


def test_several_patterns_take_what_any_of_them_takes() -> None:
    """A list of patterns is their union, and an order of its own it has not."""
    matches = matcher(["masks/**/*.png", "images/**/*.jpg"])
    assert list(filter(matches, KEYS)) == ["images/x/1.jpg", "masks/x/1.png"]


def test_case_matters() -> None:
    """``*.jpg`` leaves ``TOP.JPG`` out, as on the file system of the server."""
    assert matcher("*.jpg")("top.jpg")
    assert not matcher("*.jpg")("TOP.JPG")


def test_stars_within_a_name_stay_in_its_folder() -> None:
    """Only a whole ``**`` between slashes crosses folders."""
    assert matcher("a/b**.jpg")("a/b1.jpg")
    assert not matcher("a/b**.jpg")("a/b/1.jpg")
    assert not matcher("a/b**")("a/b/1.jpg")
    assert not matcher("a**/1.jpg")("a/b/1.jpg")


def test_range_from_high_to_low_is_refused() -> None:
    """A class that can match nothing is a mistake, and the message shows a right one."""
    with pytest.raises(ValueError, match=r"'\[9-0\]\.jpg' is not a pattern.*\[0-9\]"):
        matcher("[9-0].jpg")
