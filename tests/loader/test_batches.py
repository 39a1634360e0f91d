"""Samples that cannot become one batch are named, in our words before torch's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset, default_collate

from ai4os_data import StorageDataLoader, StorageDataset

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROOT = "daisy/img 00"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures, of which the second is smaller, and one that is none."""
    (tmp_path / "daisy").mkdir()
    for number, height in enumerate((200, 199)):
        Image.new("RGB", (180, height)).save(tmp_path / f"{ROOT}{number}.jpg")
    (tmp_path / f"{ROOT}2.txt").write_text("no picture")
    return tmp_path


def open_dataset(pictures: Path, **options: Any) -> StorageDataset:
    """Open a dataset of pictures, labelled by folder."""
    return StorageDataset(pictures, **{"pattern": "**/*.jpg", "decode": "image", "target": "folder", **options})


def failure(dataset: Any, kind: type[Exception], **options: Any) -> str:
    """The error of the first batch."""
    loader = StorageDataLoader(dataset, batch_size=3, **options)
    with pytest.raises(kind) as raised:
        list(loader)
    assert raised.type is kind
    return str(raised.value)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """A tensor of channels, height and width, from a picture."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def in_mapping(image: Image.Image) -> dict[str, Any]:
    """Make a tensor inside a mapping."""
    return {"name": "daisy", "pixels": to_tensor(image)}


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_without_a_transform_are_told(pictures: Path, workers: int) -> None:
    """The error names the sample, its type and what to do, before torch's words; its class is torch's."""
    said = failure(open_dataset(pictures), TypeError, num_workers=workers)
    assert (
        "'daisy/img 000.jpg' comes as a PIL image (mode RGB, 180 x 200), of which no batch can be made: let "
        "transform=… return a tensor or a number, or give collate_fn=. (default_collate: batch must contain"
    ) in said


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_of_unlike_shape_are_told(pictures: Path, workers: int) -> None:
    """The error names both samples and their shapes; in a worker torch would speak of storage."""
    said = failure(open_dataset(pictures, transform=to_tensor), RuntimeError, num_workers=workers)
    assert (
        "'daisy/img 000.jpg' and 'daisy/img 001.jpg' differ: (3, 200, 180) and (3, 199, 180); resize them in "
        "transform=…, or give collate_fn=. ("
    ) in said


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"transform": in_mapping}, RuntimeError, r"differ in sample[0]['pixels']: (3, 200, 180) and (3, 199, 180)"),
        ({"transform": in_mapping, "target": None}, RuntimeError, r"differ in sample['pixels']: (3, 200, 180)"),
        ({"transform": to_tensor, "target": None}, RuntimeError, r"differ: (3, 200, 180) and (3, 199, 180)"),
        ({"transform": np.array}, RuntimeError, "differ: (200, 180, 3) and (199, 180, 3)"),
        ({"transform": lambda image: [0] * image.size[1]}, RuntimeError, "differ: 200 elements and 199 elements"),
        ({"transform": lambda image: {str(image.size[1]): 0}}, KeyError, r"['200'] and ['199']"),
        ({"transform": lambda image: 1 if image.size[1] == 200 else "x"}, TypeError, "a number and a str"),
        ({"transform": lambda _: None}, TypeError, "'daisy/img 000.jpg' comes as None"),
        ({"transform": lambda _: np.array(["x"])}, TypeError, "comes as an array of str"),
        ({"transform": lambda _: np.zeros(1, "datetime64[s]")}, TypeError, "comes as an array of datetime64"),
        ({"transform": lambda _: 0, "target": lambda s: s}, TypeError, "comes in sample[1] as an object of ai4os_data"),
        (
            {"transform": lambda _: 0, "target": {f"{ROOT}0.jpg": [1], f"{ROOT}1.jpg": [1, 2]}},
            RuntimeError,
            "differ in sample[1]: 1 elements and 2 elements; make them alike in target_transform=…",
        ),
    ],
)
def test_what_differs_is_found_where_it_is(
    pictures: Path, options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    """The difference is in a mapping, a list or a label; the error names the function that made it."""
    assert words in failure(open_dataset(pictures, **options), kind)


def first_is_a_tensor(image: Image.Image) -> Any:
    """Forget the second picture."""
    return to_tensor(image) if image.size[1] == 200 else image


def first_is_there(image: Image.Image) -> Any:
    """Give nothing for the second picture."""
    return to_tensor(image) if image.size[1] == 200 else None


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (first_is_a_tensor, "'daisy/img 001.jpg' comes as a PIL image (mode RGB, 180 x 199), of which"),
        (first_is_there, "'daisy/img 001.jpg' comes as None, of which no batch can be made"),
    ],
)
def test_sample_that_is_no_tensor_among_tensors_is_told_in_a_worker(
    pictures: Path, transform: Callable[[Any], Any], words: str
) -> None:
    """In a worker torch asks each sample for its size, and would speak of a missing attribute."""
    dataset = open_dataset(pictures, transform=transform, target=None)
    assert words in failure(dataset, AttributeError, num_workers=1)
    assert words in failure(dataset, TypeError)


def as_array_or_tensor(image: Image.Image) -> Any:
    """Give a tensor for the first picture, and an array for the second."""
    return torch.zeros(1) if image.size[1] == 200 else np.zeros(1, np.float32)


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (as_array_or_tensor, "differ: a tensor and an array of numpy; make them alike"),
        (lambda _: 1j, "'daisy/img 000.jpg' comes as an object of builtins.complex"),
    ],
)
def test_numbers_that_torch_does_not_take_are_told(pictures: Path, transform: Callable[[Any], Any], words: str) -> None:
    """An array among tensors, and other types that Python counts as numbers, are named."""
    assert words in failure(open_dataset(pictures, transform=transform, target=None), TypeError)


def test_samples_are_named_through_other_datasets(pictures: Path) -> None:
    """A subset and a concatenation lead to the file; a sample that was skipped is not counted."""
    dataset = open_dataset(pictures, transform=to_tensor)
    assert "'daisy/img 001.jpg' and 'daisy/img 000.jpg' differ" in failure(Subset(dataset, [1, 0]), RuntimeError)
    assert "'daisy/img 001.jpg' and 'daisy/img 000.jpg' differ" in failure(
        ConcatDataset([Subset(dataset, [1]), dataset]), RuntimeError
    )
    skipping = open_dataset(pictures, transform=to_tensor, pattern="**/*", on_error="skip")
    assert "'daisy/img 001.jpg' and 'daisy/img 000.jpg' differ" in failure(Subset(skipping, [2, 1, 0]), RuntimeError)


class Foreign(Dataset[Any]):
    """A dataset of another library."""

    def __len__(self) -> int:
        """Two."""
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        """One sample is longer."""
        return torch.zeros(index + 1)


def test_samples_of_other_datasets_are_told_by_their_numbers() -> None:
    """Samples of a dataset that is none of ours have no key, so errors give their numbers."""
    assert "sample 0 and sample 1 differ: (1,) and (2,)" in failure(Foreign(), RuntimeError)


@pytest.mark.parametrize(
    ("collate", "words"),
    [
        (lambda samples: torch.stack([x for x, _ in samples]), "stack expects"),
        (lambda samples: default_collate([x for x, _ in samples]), "stack expects"),
        (lambda _: (_ for _ in ()).throw(RuntimeError("mine")), "mine"),
    ],
)
def test_errors_of_the_users_own_collate_are_as_they_are(
    pictures: Path, collate: Callable[[Any], Any], words: str
) -> None:
    """An error of the user's own collate_fn is raised as it is."""
    said = failure(open_dataset(pictures, transform=to_tensor), RuntimeError, collate_fn=collate)
    assert said.startswith(words)


def test_error_that_nothing_explains_is_as_it_is(pictures: Path) -> None:
    """The samples look alike, and yet torch makes no batch of them."""
    dataset = open_dataset(pictures, transform=lambda _: 2**70)
    assert failure(dataset, ValueError).startswith("Overflow")
