"""The floors of the house: imports lead downward, through the door of a room, and never in a circle."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import ai4os_data

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SOURCE = Path(ai4os_data.__file__).parent
PACKAGE = "ai4os_data"

# A room is a folder, or a module directly in the package. It imports from the floors below its own, and from no other.
FLOORS = {
    "errors": 0,
    "machine": 1,  # what this computer gives
    "telemetry": 2,
    "locations": 3,  # what users type
    "http": 4,
    "stores": 5,  # the same few verbs over every place
    "cache": 6,
    "datasets": 7,  # torch may be imported from here up
    "checkpoint": 7,
    "fsspec": 7,
    "loader": 8,
    "folders": 8,
    "lightning": 9,
    "cli": 10,
    # the front doors, which name what lies behind them; nobody inside goes through them
    "__init__": 11,
    "remotes": 11,
    "retries": 11,
}
TORCH_FROM = FLOORS["datasets"]

HOMES_OF_LIBRARIES = {
    "diskcache": "cache/",
    "pycurl": "http/curl.py",
    "webdav4": "stores/dav.py",
    "httpx": "stores/dav.py",
    "click": "cli/",
}

Modules = dict[str, ast.Module]  # by the path below the package


class Import(NamedTuple):
    """One name that a module imports, wherever in it the import stands: under TYPE_CHECKING and in functions too."""

    path: str
    module: str  # what stands behind `from`, or behind `import`
    name: str | None  # what stands behind `from … import`

    def __str__(self) -> str:
        """As an error shows it."""
        return f"{self.path} imports {self.module}{'.' + self.name if self.name else ''}"


@cache
def house() -> Modules:
    """Every module of the package: its syntax tree by its path."""
    return parsed({path.relative_to(SOURCE).as_posix(): path.read_text("utf-8") for path in SOURCE.rglob("*.py")})


def parsed(sources: Mapping[str, str]) -> Modules:
    """Syntax trees of sources, by path."""
    return {path: ast.parse(source) for path, source in sorted(sources.items())}


def imports(modules: Modules) -> Iterator[Import]:
    """Every import of every module."""
    for path, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (Import(path, alias.name, None) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                yield from (Import(path, module, alias.name) for alias in node.names)


def room(path: str) -> str:
    """The room that a module lies in."""
    return path.partition("/")[0].removesuffix(".py")


def dotted(path: str) -> str:
    """The name of a module below the package, as an import writes it; that of a room for its ``__init__``."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def target(one: Import, modules: Modules) -> str | None:
    """The module of ours that an import leads to, below the package; None if it leaves the package."""
    package, _, inside = one.module.partition(".")
    if package != PACKAGE:
        return None
    whole = f"{inside}.{one.name}".lstrip(".")
    is_module = any(f"{whole.replace('.', '/')}{ending}" in modules for ending in (".py", "/__init__.py"))
    return whole if is_module else inside or "__init__"


def without_floor(modules: Modules) -> list[str]:
    """Rooms that nobody has given a floor, and floors without a room."""
    return sorted({room(path) for path in modules} ^ set(FLOORS))


def upward(modules: Modules) -> list[str]:
    """Imports from a room on the same floor or a higher one."""
    return [
        str(one)
        for one in imports(modules)
        if (to := target(one, modules)) is not None
        and room(one.path) != to.split(".")[0]
        and FLOORS[to.split(".")[0]] >= FLOORS[room(one.path)]
    ]


def exported(tree: ast.Module) -> set[str]:
    """The names in the ``__all__`` of a module."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(to, "id", "") for to in node.targets] == ["__all__"]:
            return set(ast.literal_eval(node.value))
    return set()


def beside_the_door(modules: Modules) -> list[str]:
    """Imports from another room of what its ``__init__`` does not export."""
    doors = {
        room(path): exported(tree) for path, tree in modules.items() if path.count("/") == 1 and "__init__" in path
    }
    found = []
    for one in imports(modules):
        inside = one.module.removeprefix(f"{PACKAGE}.")
        other = inside.split(".")[0]
        is_of_another_room = one.module != inside and other in doors and other != room(one.path)
        if is_of_another_room and (inside != other or one.name not in doors[other]):
            found.append(str(one))
    return found


def circles(modules: Modules) -> list[str]:
    """Modules that lead back to themselves; front doors only re-export, and are left out."""
    edges: dict[str, set[str]] = {dotted(path): set() for path in modules if FLOORS[room(path)] < FLOORS["__init__"]}
    for one in imports(modules):
        to, start = target(one, modules), dotted(one.path)
        if to in edges and start in edges and to != start:
            edges[start].add(to)
    # What imports nothing that is left, or is imported by nothing that is left, is no part of a circle, and goes.
    while ends := [
        name
        for name, others in edges.items()
        if not others & edges.keys() or not any(name in others for others in edges.values())
    ]:
        for name in ends:
            del edges[name]
    return sorted(edges)


def strays(modules: Modules) -> list[str]:
    """Imports of a foreign library outside of its home."""
    return [
        str(one)
        for one in imports(modules)
        if (home := HOMES_OF_LIBRARIES.get(one.module.partition(".")[0])) is not None and not one.path.startswith(home)
    ]


def too_low_for_torch(modules: Modules) -> list[str]:
    """Imports of torch below the floor of the datasets."""
    return [
        str(one)
        for one in imports(modules)
        if one.module.partition(".")[0] == "torch" and FLOORS[room(one.path)] < TORCH_FROM
    ]


def relative(modules: Modules) -> list[str]:
    """Relative imports, which would escape the other checks."""
    return [str(one) for one in imports(modules) if one.module.startswith(".")]


CHECKS = [upward, beside_the_door, circles, strays, too_low_for_torch, relative]


def test_every_room_has_a_floor_and_every_floor_its_room() -> None:
    """A room that nobody thought about is not on any floor."""
    assert without_floor(house()) == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_house_keeps_the_rule(check: object) -> None:
    """No import goes upward or sideways, past a door, in a circle, or takes a library from its home."""
    assert callable(check)
    assert check(house()) == []


DOOR = 'from ai4os_data.stores.base import Store\n__all__ = ["Store"]\n'
BREACHES = {
    "from a room above": (upward, {"http/answers.py": "from ai4os_data.stores import Store"}),
    "from a room beside": (upward, {"checkpoint/manager.py": "from ai4os_data.datasets import Sample"}),
    "from the front door": (upward, {"cli/main.py": "from ai4os_data import StorageDataset"}),
    "as a type hint": (
        upward,
        {"http/answers.py": "if TYPE_CHECKING:\n    from ai4os_data.stores import Store"},
    ),
    "in a function": (upward, {"http/answers.py": "def f():\n    import ai4os_data.stores"}),
    "deeper than the door": (beside_the_door, {"cache/rows.py": "from ai4os_data.stores.base import Store"}),
    "not handed out": (beside_the_door, {"cache/rows.py": "from ai4os_data.stores import base"}),
    "a circle of two": (
        circles,
        {
            "http/a.py": "from ai4os_data.http.b import B",
            "http/b.py": "if TYPE_CHECKING:\n    from ai4os_data.http.a import A",
        },
    ),
    "through the own door": (
        circles,
        {"stores/base.py": "from ai4os_data.stores import Store"},
    ),
    "click outside": (strays, {"folders/progress.py": "import click"}),
    "httpx outside": (strays, {"stores/nextcloud.py": "import httpx"}),
    "curl outside": (strays, {"http/bodies.py": "from pycurl import Curl"}),
    "diskcache outside": (strays, {"stores/base.py": "import diskcache.core"}),
    "webdav4 outside": (strays, {"stores/listings.py": "from webdav4.client import Client"}),
    "torch below": (too_low_for_torch, {"cache/rows.py": "import torch"}),
    "a relative import": (relative, {"cache/rows.py": "from .names import Names"}),
}


@pytest.mark.parametrize("kind", BREACHES)
def test_each_kind_of_breach_is_found(kind: str) -> None:
    """A check that could not fail would say nothing."""
    check, breach = BREACHES[kind]
    sound = {
        "stores/__init__.py": DOOR,
        "stores/base.py": "",
        "datasets/__init__.py": '__all__ = ["Sample"]',
        "__init__.py": "",
    }
    assert check(parsed(sound)) == []
    assert check(parsed({**sound, **breach})) != []
