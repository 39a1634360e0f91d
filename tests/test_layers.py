"""The floors of the house: modules import only downward, and each foreign library has one room."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import ai4os_data

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(ai4os_data.__file__).parent

# A new module has to be given a floor here: the lowest that holds all it imports, and what it is about.
FLOORS = {
    # what everything else speaks of
    "descriptors": 0,
    "errors": 0,
    "locations": 0,
    "mounts": 0,
    "ownership": 0,
    "packed": 0,
    "processes": 0,
    "proxies": 0,
    "redirects": 0,
    "remotes": 0,
    "spelling": 0,
    "telemetry": 0,
    "tokens": 0,
    "underway": 0,
    "webpages": 0,
    # bytes over HTTP, and the places where they lie
    "answers": 1,
    "bodies": 1,
    "concurrency": 1,
    "entries": 1,
    "connections": 1,
    "newfile": 1,
    "outages": 1,
    "opened": 1,
    "ranged": 1,
    "readfile": 1,
    "refusals": 1,
    "retries": 1,
    "statuses": 1,
    "stores": 1,
    "tls": 1,
    "transport": 1,
    # what is kept on the local disk
    "cache": 2,
    "index": 2,
    # what comes with torch: samplers, checkpoints
    "accelerated": 3,
    "callers": 3,
    "checkpoint": 3,
    "prefetch": 3,
    "progress": 3,
    "rest": 3,
    "sampling": 3,
    "seeding": 3,
    "orders": 3,
    # what a training loop holds
    "braces": 4,
    "classes": 4,
    "course": 4,
    "datasets": 4,
    "decoding": 4,
    "junk": 4,
    "labels": 4,
    "loader": 4,
    "lost": 4,
    "mismatch": 4,
    "mistakes": 4,
    "nesting": 4,
    "patterns": 4,
    "sample": 4,
    "siblings": 4,
    "splits": 4,
    "tables": 4,
    "targets": 4,
    "unreadable": 4,
    "work": 4,
    # other frameworks, one a file
    "fsspec": 5,
    "lightning": 5,
    "lightning_flavour": 5,
    "lightning_hparams": 5,
    "lightning_io": 5,
    "lightning_kept": 5,
    "lightning_loaders": 5,
    "lightning_moments": 5,
    "lightning_best": 5,
    "lightning_options": 5,
    "lightning_resume": 5,
    "lightning_weights": 5,
    # what a person starts
    "cli": 6,
    # the front door, which names what lies behind it; nobody inside goes through it
    "__init__": 7,
}
TORCH_FROM = 3

ROOMS_OF_LIBRARIES = {"diskcache": "cache/", "pycurl": "transport.py", "webdav4": "stores/webdav.py"}


@cache
def modules() -> list[tuple[str, ast.Module]]:
    """Every module: its path below the package, and its syntax tree."""
    return [
        (path.relative_to(SOURCE).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(SOURCE.rglob("*.py"))
    ]


def imports(tree: ast.Module) -> Iterator[str]:
    """Every import, wherever it stands, as a dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names)


def floor(room: str) -> int:
    """The floor of a room; one that has none yet is told by a test of its own."""
    return FLOORS.get(room, 0)


def room(path: str) -> str:
    """The file or the folder of the package that a module lies in."""
    return path.partition("/")[0].removesuffix(".py")


def room_of_import(name: str) -> str | None:
    """The room that an import leads into, or None when it leaves the package."""
    package, _, inside = name.partition(".")
    if package != "ai4os_data":
        return None
    first = inside.partition(".")[0]
    return first if first in {room(path) for path, _ in modules()} else "__init__"


def test_every_module_has_a_floor_and_every_floor_its_module() -> None:
    """A module that nobody thought about is not on any floor."""
    assert {room(path) for path, _ in modules()} == set(FLOORS)


def test_modules_import_only_downward() -> None:
    """No module imports from a floor above its own."""
    upward = [
        f"{path} (floor {floor(room(path))}) imports {name} (floor {floor(target)})"
        for path, tree in modules()
        for name in imports(tree)
        if (target := room_of_import(name)) is not None and floor(target) > floor(room(path))
    ]
    assert upward == []


def test_no_module_imports_relatively() -> None:
    """Relative imports would escape the two checks of where an import leads."""
    assert [path for path, tree in modules() for name in imports(tree) if name.startswith(".")] == []


def test_each_foreign_library_is_imported_in_its_room_alone() -> None:
    """webdav4, diskcache and curl can be replaced by changing one room each."""
    strays = [
        f"{path} imports {name}"
        for path, tree in modules()
        for name in imports(tree)
        if (home := ROOMS_OF_LIBRARIES.get(name.partition(".")[0])) is not None and not path.startswith(home)
    ]
    assert strays == []


def test_torch_is_imported_from_the_third_floor_up() -> None:
    """What lies below works, and starts, without torch."""
    strays = [
        f"{path} (floor {floor(room(path))}) imports {name}"
        for path, tree in modules()
        for name in imports(tree)
        if name.partition(".")[0] == "torch" and floor(room(path)) < TORCH_FROM
    ]
    assert strays == []
