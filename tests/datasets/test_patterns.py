"""Patterns choose the keys that pathlib's globs would choose."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from ai4os_data.datasets.braces import alternatives
from ai4os_data.datasets.junk import is_junk
from ai4os_data.datasets.mistakes import hint, misses
from ai4os_data.datasets.patterns import Pattern, matcher

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


# --- braces


@pytest.mark.parametrize(
    "pattern",
    [
        "*.{jpg,png}",
        "**/*.{jpg,png,}",
        "{a,b{c,d},e}x{1,2}",
        "{{a,b},c}",
        "{a/b,c}/**/*.jpg",
        "{01..12}",
        "{8..10}",
        "{3..1}",
        "{-1..1}",
        "{1..9..3}",
        "{a}",
        "{a,b",
        "a,b}",
        "{}",
        "x{,y}",
        "{x,{y}}",
        "{a,{b}}.{jpg,png}",
        "}{a,b}{",
    ],
)
def test_braces_are_what_a_shell_makes_of_them(pattern: str) -> None:
    """The same words in the same order, as bash expands them."""
    said = subprocess.run(
        ["bash", "-fc", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True
    ).stdout
    assert alternatives(pattern) == said.splitlines()


def test_braces_match_what_each_alternative_matches() -> None:
    """Nested ones, empty ones, and such with folders in them."""
    assert list(filter(matcher("{images,masks}/x/1.{jpg,png}"), KEYS)) == ["images/x/1.jpg", "masks/x/1.png"]
    assert list(filter(matcher("a/{b/{c/,},}1.jpg"), KEYS)) == ["a/1.jpg", "a/b/1.jpg", "a/b/c/1.jpg"]
    assert list(filter(matcher("**/*.{JPG,png}"), KEYS)) == ["TOP.JPG", "a/1.png", "masks/x/1.png"]


def test_braces_in_names_are_written_in_brackets() -> None:
    """A file may be called so; a comma in brackets parts nothing."""
    assert list(filter(matcher("[{]a,b}.jpg"), ["{a,b}.jpg", "a.jpg"])) == ["{a,b}.jpg"]
    assert list(filter(matcher("{[,;]x,y}"), [",x", ";x", "y", "[,;]x"])) == [",x", ";x", "y"]


@pytest.mark.parametrize("pattern", ["*.{jpg, png}", "{a ,b}"])
def test_blanks_in_braces_are_refused(pattern: str) -> None:
    """They would be part of the name, and half of the files would be left out in silence."""
    with pytest.raises(ValueError, match=r"has blanks inside of its braces; write them without"):
        matcher(pattern)


def test_braces_that_stand_for_too_much_are_refused() -> None:
    """Before memory is full of patterns."""
    with pytest.raises(ValueError, match=r"more than 10,000 patterns"):
        matcher("{0..9}" * 9)


# --- what may have been meant

FILES = ("cat/1.jpg", "cat/2.JPG", "dog/1.jpg", "dog/deep/2.jpg", "top.png")


@pytest.mark.parametrize(
    ("pattern", "better"),
    [
        ("*.jpg", "'**/*.jpg' matches 3"),
        ("**.jpg", "'**/*.jpg' matches 3"),
        ("dog**.jpg", "'dog*/**/*.jpg' matches 2"),
        ("*.jpg,*.png", "['**/*.jpg', '**/*.png'] matches 4"),
        ("*.jpg, *.png", "['**/*.jpg', '**/*.png'] matches 4"),
        ("*.jpg;*.png", "['**/*.jpg', '**/*.png'] matches 4"),
        ("*.jpg *.png", "['**/*.jpg', '**/*.png'] matches 4"),
        ("*.jpg|*.png", "['**/*.jpg', '**/*.png'] matches 4"),
        ("*.bmp,*.tif", "['*.bmp', '*.tif']"),
        ("**.bmp", "'**/*.bmp' instead of '**.bmp'"),
        ("*.{jpg|png}", "'**/*.{jpg,png}' matches 4"),
        ("**/*.(jpg|png)", "'**/*.{jpg,png}' matches 4"),
        ("./cat/*.jpg", "'cat/*.jpg' matches 1"),
        ("/cat/*.jpg", "'cat/*.jpg' matches 1"),
        ("cat\\*.jpg", "'cat/*.jpg' matches 1"),
        (" cat/*.jpg", "'cat/*.jpg' matches 1"),
        ("train/cat/*.jpg", "'cat/*.jpg' matches 1"),
        ("cat", "'cat/**/*' matches 2"),
        ("cat/", "'cat/**/*' matches 2"),
        (".jpg", "'**/*.jpg' matches 3"),
        ("jpg", "'**/*.jpg' matches 3"),
        ("**/*.PNG", "'**/*.png' matches 1"),
        ("*.Jpg", "'**/*.jpg' matches 3"),
        (r".*\.jpg$", "'**/*.jpg' matches 3"),
        (["*.tif", "*.jpg"], "'**/*.jpg' matches 3"),
    ],
)
def test_pattern_that_matches_nothing_gets_a_better_one(pattern: str | list[str], better: str) -> None:
    """What it may have meant is tried on the files, and told with how many it matches."""
    chosen = Pattern(pattern)
    assert not any(map(chosen, FILES))
    assert better in (hint(chosen, FILES) or "")


def test_pattern_of_which_nothing_is_like_a_file_gets_none() -> None:
    """A wrong guess would be worse."""
    assert hint(Pattern("**/*.tif"), FILES) is None
    assert hint(Pattern("**/*.jpg"), []) is None


def test_files_that_are_nearly_matched_are_told() -> None:
    """Upper case, and what lies deeper than ``**.jpg`` reaches; not what a class of letters leaves out."""

    def said(pattern: str) -> str:
        chosen = Pattern(pattern)
        return misses(chosen, [key for key in FILES if not chosen(key)]) or ""

    assert said("**/*.jpg").startswith("1 of the other files, such as 'cat/2.JPG', differ from '**/*.jpg' in upper")
    assert said("dog/**.jpg") == "'dog/**.jpg' stays within one folder; 'dog/**/*.jpg' takes 1 files more"
    assert said("**/*.{jpg,JPG}") == said("**/*.[j]pg") == said("dog/**/*.jpg") == ""


# --- junk


@pytest.mark.parametrize(
    "key",
    [
        ".DS_Store",
        "a/.ds_store",
        "a/._b.jpg",
        "__MACOSX/a/b.jpg",
        "a/Thumbs.db",
        "a/thumbs.db",
        "a/THUMBS.DB",
        "Desktop.ini",
        "a/desktop.ini",
        ".ipynb_checkpoints/a.jpg",
        "a/.ipynb_checkpoints/a-checkpoint.jpg",
        "a/.~lock.b.csv#",
        "a/~$report.xlsx",
        "@eaDir/a/b.jpg",
        "$RECYCLE.BIN/a.jpg",
        "System Volume Information/a",
        "lost+found/a",
        ".Trash-1000/files/a.jpg",
        "a/.nfs00000000123abc",
        ".sync_0123abc.db-wal",
        "._sync_0123.db",
        ".git/objects/a",
        ".snapshot/hourly.0/a.jpg",
        ".cache/huggingface/download/a.jpg.metadata",
        "a/__pycache__/b.pyc",
    ],
)
def test_what_systems_leave_behind_is_known(key: str) -> None:
    """By the names that they use, of files and folders, without regard to case."""
    assert is_junk(key)
    assert not Pattern("**/*")(key)


@pytest.mark.parametrize(
    "key",
    [
        "a.jpg",
        ".hidden/a.jpg",
        "a/.b.jpg",
        "_MACOSX/a.jpg",
        "thumbs/db.jpg",
        "my Thumbs.db.jpg",
        "git/a.jpg",
        "trash/a.jpg",
        "recycler/a.jpg",
        "...a.jpg",
        "~a.jpg",
        "$a.jpg",
        "@tmpl/a.jpg",
        "data.cache/a",
    ],
)
def test_what_users_name_is_no_junk(key: str) -> None:
    """A class of waste, a hidden file: they are samples."""
    assert Pattern("**/*")(key)
