"""Pixels that are kept without a format are those that a decoder gives, and damage is found."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from ai4os_data import StorageDataset, shrink
from ai4os_data.errors import SampleError
from tests.support.pictures import difference, exif, file_of, labels, opened, photograph

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.shares import Share


def read(share: Share, data: bytes, decode: str, directory: Path | None = None, **options: Any) -> Any:
    """What a dataset gives for a file, kept as pixels."""
    share.put({"a.jpg": data})
    options = {"prepare": shrink(100, keep="pixels"), **options}
    return StorageDataset(share.location, remote=share.remote, decode=decode, cache=directory, **options)[0]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_image_is_that_of_a_file_of_the_same_size(share: Share, mode: str) -> None:
    """An RGB image, as from a decoder; only what JPEG loses is not lost."""
    data = file_of(photograph(mode=mode), "JPEG")
    image = read(share, data, "image")
    assert (image.mode, image.size) == ("RGB", (100, 75))
    assert difference(image, opened(shrink(100, quality=95)(data)).convert("RGB")) < 3


def test_array_is_the_image(share: Share, tmp_path: Path) -> None:
    """Height x width x RGB, of bytes; it can be written to, and becomes a tensor without a warning."""
    data = file_of(photograph(), "JPEG")
    array = read(share, data, "numpy", tmp_path / "cache")
    image = read(share, data, "image", tmp_path / "cache")
    assert (array.shape, array.dtype) == ((75, 100, 3), np.uint8)
    np.testing.assert_array_equal(array, np.asarray(image))
    array += 1
    assert torch.from_numpy(array).shape == (75, 100, 3)


def test_small_photographs_are_kept_as_pixels_too(share: Share) -> None:
    """What is to be saved is the decoding, and not only the size."""
    image = photograph(60, 40)
    kept = shrink(100, keep="pixels")(file_of(image, "PNG"))
    np.testing.assert_array_equal(np.load(io.BytesIO(kept)), np.asarray(image))
    assert read(share, file_of(image, "PNG"), "image").tobytes() == image.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_told_as_by_the_file(share: Share, orientation: int) -> None:
    """Who turns images by their orientation turns these too; the pixels are as they were stored."""
    data = file_of(photograph(), "JPEG", exif=exif(orientation, notes=True))
    image = read(share, data, "image")
    assert image.getexif().get(0x0112, 1) == orientation
    upright, expected = ImageOps.exif_transpose(image), ImageOps.exif_transpose(opened(data))
    assert upright is not None
    assert expected is not None
    assert difference(upright, expected.resize(upright.size, Image.Resampling.LANCZOS)) < 4


def test_labels_and_what_is_no_photograph_stay_files(share: Share) -> None:
    """They are decoded as before."""
    for data in (file_of(labels().convert("P"), "PNG"), file_of(photograph(), "GIF"), b"text"):
        assert read(share, data, "bytes") == data
    mask = file_of(labels(), "PNG")
    assert read(share, mask, "image").tobytes() == opened(mask).convert("RGB").tobytes()
    smaller = read(share, mask, "bytes", prepare=shrink(100, keep="pixels", masks=True))
    assert (opened(smaller).format, opened(smaller).size) == ("PNG", (100, 75))


def test_batches_come_from_workers(share: Share, tmp_path: Path) -> None:
    """Arrays of one size become a batch by themselves."""
    share.put({f"{number}.jpg": file_of(photograph(seed=number), "JPEG") for number in range(6)})
    dataset = StorageDataset(
        share.location,
        remote=share.remote,
        decode="numpy",
        prepare=shrink(64, keep="pixels"),
        cache=tmp_path / "cache",
    )
    for _ in range(2):
        batches = list(DataLoader(dataset, batch_size=3, num_workers=2))
        assert [tuple(batch.shape) for batch in batches] == [(3, 48, 64, 3)] * 2


def test_pixels_for_paths_are_refused(tmp_path: Path) -> None:
    """A path is for code that opens images, and there is none that opens these."""
    with pytest.raises(ValueError, match=r"decode='path' gives files.*'image' or 'numpy'"):
        StorageDataset(tmp_path, decode="path", prepare=shrink(100, keep="pixels"))


def kept(**changes: Any) -> bytes:
    """The file of an array."""
    file = io.BytesIO()
    np.save(file, np.zeros(changes.pop("shape", (4, 5, 3)), changes.pop("dtype", np.uint8)))
    return file.getvalue()


@pytest.mark.parametrize("damaged", [kept()[:-1], kept() + b"more", kept()[:128]])
@pytest.mark.parametrize("decode", ["image", "numpy"])
def test_pixels_that_are_not_whole_are_an_error(share: Share, damaged: bytes, decode: str) -> None:
    """The length is that which the shape takes."""
    with pytest.raises(SampleError, match=r"'a\.jpg'.*pixels are damaged"):
        read(share, damaged, decode)


@pytest.mark.parametrize("other", [kept(shape=(4, 5)), kept(shape=(4, 5, 4)), kept(dtype=np.float32), kept(shape=())])
def test_other_arrays_are_no_images_and_stay_arrays(share: Share, other: bytes) -> None:
    """``"numpy"`` gives each array as it was saved; ``"image"`` refuses what are no pixels."""
    np.testing.assert_array_equal(read(share, other, "numpy"), np.load(io.BytesIO(other)))
    with pytest.raises(SampleError, match="UnidentifiedImageError"):
        read(share, other, "image")


@pytest.mark.parametrize("header", [b"{'descr': '|u1'", b"__import__('os')", b"(" * 900, b"\xff" * 60, b" " * 60_000])
def test_a_header_that_is_none_is_no_image(share: Share, header: bytes) -> None:
    """Nothing in it is evaluated but plain values."""
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(60)
    with pytest.raises(SampleError, match="UnidentifiedImageError"):
        read(share, data, "image")
