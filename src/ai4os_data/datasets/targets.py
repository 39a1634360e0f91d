"""The labels of samples: by folder, from a mapping or a file, or by the user's own function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ai4os_data.datasets.classes import Classes, GivenClasses
from ai4os_data.datasets.index import enumerated
from ai4os_data.errors import EmptyClassError, LocationError
from ai4os_data.machine import packed_values

if TYPE_CHECKING:
    from ai4os_data.datasets.sample import Sample

Target = str | Mapping[str, Any] | Callable[["Sample"], Any] | None

_TARGETS = "target is None, 'folder', a mapping from key to label, or a callable of a Sample"


_DESCRIBED = 5  # each description looks at all keys


class Folders(NamedTuple):
    """The folders at the top of a location.

    Attributes:
        names: all folders that may hold samples, also those that hold none.
        describe: says what is in a folder without samples.
        pattern: that of the samples; None if their keys were given.
    """

    names: Sequence[str]
    describe: Callable[[str], str]
    pattern: object = None


class Targets:
    """The labels of a dataset's samples.

    Attributes:
        values: the label of each sample; None if a function gives them.
        function: gives the label of a sample; None if they are known.
        numbering: the classes; None if labels are not classes.
    """

    def __init__(
        self,
        values: Sequence[Any] | None = None,
        function: Callable[[Sample], Any] | None = None,
        classes: Classes | None = None,
    ) -> None:
        self.values = packed_values(values) if values is not None else None
        self.function = function
        self.numbering = classes

    @classmethod
    def of(
        cls, target: Target | Targets, keys: Sequence[str], wanted: GivenClasses, folders: Callable[[], Folders]
    ) -> Targets | None:
        """The labels that a ``target=`` argument means.

        Raises:
            LocationError: a file lies in no class folder, or in no mapping, or its class is none of the given ones.
            EmptyClassError: a class has no file.
        """
        if isinstance(target, Targets):
            return target
        if target is None:
            if wanted.classes is not None:
                message = "classes= and class_to_idx= say what the labels mean, and there are none: give target=, too"
                raise ValueError(message)
            return None
        if isinstance(target, str):
            if target != "folder":
                raise ValueError(f"{_TARGETS}, not {target!r}")
            return cls._by_folder(keys, wanted, folders())
        if isinstance(target, Mapping):
            missing = [repr(key) for key in keys if key not in target]
            if missing:
                raise LocationError(
                    f"{wanted.location}: the mapping given as target has no label for {enumerated(missing)}"
                )
            return cls.of_values([target[key] for key in keys], keys, wanted)
        if callable(target):
            return cls.of_function(target, wanted)
        raise TypeError(f"{_TARGETS}, not {target!r}")

    @classmethod
    def of_values(cls, values: Sequence[Any], keys: Sequence[str], wanted: GivenClasses) -> Targets:
        """Labels as a user gives them; if classes are given too, their names or numbers.

        Raises:
            LocationError: one is no class.
            EmptyClassError: a given class has no sample.
        """
        if wanted.classes is None:
            return cls(values)
        if all(isinstance(value, str) for value in values):
            numbers, classes = wanted.numbered(values, lambda sample: repr(keys[sample]))
            return cls(numbers, classes=classes)
        numbers = [wanted.number_of(value) for value in values]
        return cls(numbers, classes=wanted.checked(numbers, lambda sample: repr(keys[sample])))

    @classmethod
    def of_function(cls, function: Callable[[Sample], Any], wanted: GivenClasses) -> Targets:
        """Labels that a user's function gives; if classes are given too, by their names or numbers."""
        if wanted.classes is None:
            return cls(function=function)
        return cls(function=partial(_numbered, function, wanted), classes=wanted.classes)

    @classmethod
    def _by_folder(cls, keys: Sequence[str], wanted: GivenClasses, folders: Folders) -> Targets:
        """Labels as in torchvision's ImageFolder: the first folder, numbered in sorted order."""
        names = [key.partition("/")[0] if "/" in key else None for key in keys]
        bare = [repr(key) for key, name in zip(keys, names, strict=True) if name is None]
        if bare:
            raise LocationError(
                f"{wanted.location}: target='folder' takes the class from the first folder, but {enumerated(bare)} lie "
                "in none. Narrow the pattern ('*/**/*.jpg'), or give the folder above the class folders"
            )
        used = {name for name in names if name is not None}
        if wanted.classes is None:
            empty = sorted(set(folders.names) - used)
            if empty and folders.pattern is not None and not wanted.allow_empty:
                raise EmptyClassError(_of_empty(empty, wanted.location, folders))
            wanted = wanted._replace(classes=Classes(sorted({*folders.names, *used})), allow_empty=True)
        numbers, classes = wanted.numbered(
            [name for name in names if name is not None], lambda sample: f"{wanted.location}: {keys[sample]!r}"
        )
        return cls(numbers, classes=classes)

    def label(self, index: int, sample: Sample) -> Any:
        """The label of one sample."""
        if self.function is not None:
            return self.function(sample)
        assert self.values is not None
        return self.values[index]


def _numbered(function: Callable[[Sample], Any], wanted: GivenClasses, sample: Sample) -> int:
    """The number of the class that a user's function gives for a sample."""
    return wanted.number_of(function(sample))


def _of_empty(empty: Sequence[str], location: str, folders: Folders) -> str:
    described = [f"{name!r} ({folders.describe(name)})" for name in empty[:_DESCRIBED]]
    what = enumerated([*described, *map(repr, empty[_DESCRIBED:])])
    one = len(empty) == 1
    return (
        f"{location}: no file in the class folder{'' if one else 's'} {what} matches {folders.pattern!r}, and without "
        f"{'it' if one else 'them'} other classes would get other numbers. allow_empty=True lets "
        f"{'it' if one else 'each'} keep its number without a file; classes=[…] names those that are meant; a pattern "
        "such as '{cat,dog}/**/*.jpg' leaves the other folders out"
    )
