"""What a sample's label is: its folder, an entry of a mapping, a line of a split file, or the user's own function."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ai4os_data.errors import EmptyDatasetError, LocationError
from ai4os_data.index import enumerated
from ai4os_data.packed import packed_values

if TYPE_CHECKING:
    from ai4os_data.sample import Sample

Target = str | Mapping[str, Any] | Callable[["Sample"], Any] | None

_TARGETS = "target is None, 'folder', a mapping from key to label, or a callable of a Sample"


class Targets:
    """The labels of a dataset's samples.

    Attributes:
        classes: the names of the classes, sorted; None where labels are not classes.
        class_to_idx: from the name to the label.
    """

    def __init__(
        self,
        values: Sequence[Any] | None = None,
        function: Callable[[Sample], Any] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.values = packed_values(values) if values is not None else None
        self.function = function
        self.classes = list(classes) if classes is not None else None
        self.class_to_idx = {name: number for number, name in enumerate(classes)} if classes is not None else None

    @classmethod
    def of(cls, target: Target, keys: Sequence[str], location: str) -> Targets | None:
        """The labels that a ``target=`` argument means.

        Raises:
            LocationError: a file lies in no class folder, or in no mapping.
        """
        if target is None:
            return None
        if isinstance(target, str):
            if target != "folder":
                message = f"{_TARGETS}, not {target!r}"
                raise ValueError(message)
            return cls._by_folder(keys, location)
        if isinstance(target, Mapping):
            missing = [repr(key) for key in keys if key not in target]
            if missing:
                message = f"{location}: the mapping given as target has no label for {enumerated(missing)}"
                raise LocationError(message)
            return cls([target[key] for key in keys])
        if callable(target):
            return cls(function=target)
        raise TypeError(f"{_TARGETS}, not {target!r}")

    @classmethod
    def _by_folder(cls, keys: Sequence[str], location: str) -> Targets:
        """Labels as in torchvision's ImageFolder: the first folder, numbered in sorted order."""
        folders = [key.partition("/")[0] if "/" in key else None for key in keys]
        bare = [repr(key) for key, folder in zip(keys, folders, strict=True) if folder is None]
        if bare:
            message = (
                f"{location}: target='folder' takes the class from the first folder, but {enumerated(bare)} lie in "
                "none. Narrow the "
                f"pattern ('*/**/*.jpg'), or give the folder above the class folders"
            )
            raise LocationError(message)
        return cls.of_classes([folder for folder in folders if folder is not None])

    @classmethod
    def of_classes(cls, names: Sequence[str]) -> Targets:
        """Labels that are classes, numbered in sorted order."""
        classes = sorted(set(names))
        numbers = {name: number for number, name in enumerate(classes)}
        return cls([numbers[name] for name in names], classes=classes)

    def label(self, index: int, sample: Callable[[], Sample]) -> Any:
        """The label of one sample."""
        if self.function is not None:
            return self.function(sample())
        assert self.values is not None
        return self.values[index]


def parse_split(text: str, name: str) -> tuple[list[str], Targets]:
    """Keys and labels from lines such as ``Class/some image.jpg 0``: the label is what follows the last space.

    Labels are numbers where all of them are, else the names of classes.

    Raises:
        LocationError: a line has no label.
        EmptyDatasetError: there is no line.
    """
    keys: list[str] = []
    labels: list[str] = []
    # Not splitlines: it would break names at characters such as U+2028.
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff")), start=1):
        if not line.strip():
            continue
        parts = line.rstrip().rsplit(None, 1)
        if len(parts) < 2:
            message = f"{name}, line {number}: {line!r} is not 'path label'"
            raise LocationError(message)
        keys.append(parts[0].strip().replace("\\", "/").removeprefix("./"))
        labels.append(parts[1])
    if not keys:
        message = f"{name}: no line says 'path label'"
        raise EmptyDatasetError(message)
    if all(re.fullmatch(r"[+-]?[0-9]+", label) for label in labels):
        return keys, Targets([int(label) for label in labels])
    return keys, Targets.of_classes(labels)
