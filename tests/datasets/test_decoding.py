"""What comes out of a file under each ``decode``, and what is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ai4os_data import DiskCache, Sample, StorageDataset
from ai4os_data.errors import SampleError
from tests.support.pictures import difference, file_of, photograph
from tests.support.shares import Folder, png

if TYPE_CHECKING:
    from tests.support.shares import Share


class Bomb:
    """Makes a folder wherever it is unpickled."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[object, ...]:
        """Make it."""
        return os.mkdir, (str(self.crater),)


def only_item(share: Share, content: bytes | str, decode: Any, key: str = "file.bin") -> Any:
    """Put one file into a share, and return what a dataset makes of it."""
    share.put({key: content})
    return StorageDataset(share.location, remote=share.remote, decode=decode, cache=None)[0]


def numpy_file(array: object, *, allow_pickle: bool = False) -> bytes:
    """Return a ``.npy`` file."""
    file = io.BytesIO()
    np.save(file, np.asarray(array), allow_pickle=allow_pickle)
    return file.getvalue()


def torch_file(state: object) -> bytes:
    """Return what ``torch.save`` writes."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def test_bytes_are_the_file(share: Share) -> None:
    """``"bytes"`` gives every byte, and is what a dataset does by itself."""
    content = bytes(range(256)) * 5
    assert only_item(share, content, "bytes") == content
    assert StorageDataset(share.location, remote=share.remote, cache=None)[0] == content


def test_empty_file_is_a_sample_of_no_bytes(share: Share) -> None:
    """A file of zero bytes is read like any other."""
    assert only_item(share, b"", "bytes") == b""


def test_text_is_utf_8(share: Share) -> None:
    """``"text"`` gives a str, line ends as they are."""
    assert only_item(share, "Größe\r\n三\n", "text") == "Größe\r\n三\n"


def test_text_that_is_not_utf_8_is_named(share: Share) -> None:
    """The error tells the key, and why it is no text."""
    with pytest.raises(SampleError, match=r"'latin\.txt'.*UnicodeDecodeError"):
        only_item(share, "Größe".encode("latin-1"), "text", "latin.txt")


def test_json_is_parsed(share: Share) -> None:
    """``"json"`` gives what the file says, whether it begins with a byte order mark or not."""
    content = {"boxes": [[1, 2.5]], "name": "Ä", "no": None}
    assert only_item(share, json.dumps(content), "json") == content
    assert only_item(share, b"\xef\xbb\xbf" + json.dumps(content).encode(), "json") == content


def test_broken_json_is_named(share: Share) -> None:
    """The error tells the key, and where the JSON ends to make sense."""
    with pytest.raises(SampleError, match=r"'labels\.json'.*JSONDecodeError.*line 1"):
        only_item(share, '{"a":', "json", "labels.json")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK"])
def test_image_is_rgb_whatever_the_file_is(share: Share, mode: str) -> None:
    """``"image"`` gives an RGB image of Pillow's, with the pixels of the file."""
    file = io.BytesIO()
    Image.new("RGB", (5, 3), (255, 255, 255)).convert(mode).save(file, "TIFF")
    image = only_item(share, file.getvalue(), "image", "picture.tif")
    assert (image.mode, image.size, image.getpixel((4, 2))) == ("RGB", (5, 3), (255, 255, 255))


def test_image_keeps_its_pixels(share: Share) -> None:
    """A PNG comes out as it went in."""
    assert only_item(share, png((12, 200, 77)), "image").getpixel((0, 0)) == (12, 200, 77)


def test_numpy_array_comes_as_it_was_saved(share: Share) -> None:
    """``"numpy"`` gives the array of a ``.npy`` file, its type and shape included."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    loaded = only_item(share, numpy_file(array), "numpy", "a.npy")
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, array)


def test_numpy_archive_is_a_dictionary_of_arrays(share: Share) -> None:
    """A ``.npz`` file gives all of its arrays by name."""
    file = io.BytesIO()
    np.savez_compressed(file, x=np.arange(3), y=np.eye(2))
    loaded = only_item(share, file.getvalue(), "numpy", "a.npz")
    assert sorted(loaded) == ["x", "y"]
    np.testing.assert_array_equal(loaded["x"], [0, 1, 2])
    np.testing.assert_array_equal(loaded["y"], np.eye(2))


@pytest.mark.parametrize("kind", ["npy", "npz", "pickle"])
def test_pickled_arrays_are_refused(share: Share, tmp_path: Path, kind: str) -> None:
    """Objects in a ``.npy`` or ``.npz`` file, and pickles that pose as one, are never unpickled."""
    crater = tmp_path / "crater"
    bomb = np.array([Bomb(crater)], dtype=object)
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, bomb, allow_pickle=True)
    elif kind == "npz":
        np.savez(file, allow_pickle=True, harmless=np.eye(2), bomb=bomb)
    else:
        pickle.dump(Bomb(crater), file)
    with pytest.raises(SampleError, match=r"'data\.bin'.*allow_pickle"):
        only_item(share, file.getvalue(), "numpy", "data.bin")
    assert not crater.exists()


def test_torch_gives_weights(share: Share) -> None:
    """``"torch"`` loads tensors and primitives, onto the CPU."""
    weight = torch.arange(4.0).reshape(2, 2)
    state = {"weight": weight, "step": 7, "names": ["a", "b"]}
    loaded = only_item(share, torch_file(state), "torch", "model.pt")
    assert loaded["step"] == 7
    assert loaded["names"] == ["a", "b"]
    assert loaded["weight"].device.type == "cpu"
    assert torch.equal(loaded["weight"], weight)


def test_malicious_pickle_is_refused_by_torch(share: Share, tmp_path: Path) -> None:
    """A checkpoint that would run code when it is unpickled is refused, and does not run it."""
    crater = tmp_path / "crater"
    with pytest.raises(SampleError, match=r"'model\.pt'.*weights"):
        only_item(share, torch_file({"weight": torch.zeros(1), "more": Bomb(crater)}), "torch", "model.pt")
    with pytest.raises(SampleError, match=r"'model\.pt'.*weights"):
        only_item(share, pickle.dumps(Bomb(crater)), "torch", "model.pt")
    assert not crater.exists()


def test_path_is_a_local_file_with_the_bytes_and_the_suffix(share: Share, tmp_path: Path) -> None:
    """``"path"`` gives a str that libraries can open, which go by its suffix."""
    share.put({"a/first.h5": b"one", "a/second.h5": b"two"})
    dataset = StorageDataset(share.location, remote=share.remote, decode="path", cache=tmp_path / "cache")
    paths = [dataset[0], dataset[1]]
    assert [Path(path).read_bytes() for path in paths] == [b"one", b"two"]
    assert [Path(path).suffix for path in paths] == [".h5", ".h5"]
    assert all(isinstance(path, str) and os.path.isabs(path) for path in paths)


def test_path_stays_while_it_is_in_use(share: Share, tmp_path: Path) -> None:
    """Neither clearing the cache nor filling it takes the file away that a path object still names."""
    share.put({"kept.bin": b"kept" * 1000} | {f"{n}.bin": os.urandom(100_000) for n in range(60)})
    cache = DiskCache(tmp_path / "cache", 4 * 1024 * 1024, policy="lru")
    dataset = StorageDataset(share.location, remote=share.remote, decode="path", cache=cache)
    path = dataset[dataset.keys.index("kept.bin")]
    assert path.startswith(str(tmp_path / "cache"))
    cache.clear()
    for other in range(60):
        assert os.path.exists(dataset[other])
    assert cache.stats()["entries"] < 60  # some were evicted
    assert Path(path).read_bytes() == b"kept" * 1000


def test_path_without_a_cache_goes_with_its_object(share: Share) -> None:
    """Without a cache a file is made for the path, and is gone with its last user."""
    share.put({"a.bin": b"here"})
    dataset = StorageDataset(share.location, remote=share.remote, decode="path", cache=None)
    path = dataset[0]
    name = str.__str__(path)[:]
    assert Path(name).read_bytes() == b"here"
    del path
    assert not os.path.exists(name)


def test_path_in_a_local_directory_is_the_file_itself(tmp_path: Path) -> None:
    """What is on a local disk already is not copied; it comes from workers too, and what is gone is named."""
    folder = Folder(tmp_path / "place")
    folder.put({"a.bin": b"one", "b.bin": b"two", "c.bin": b"three"})
    dataset = StorageDataset(folder.location, decode="path")
    loader = DataLoader(dataset, num_workers=2, collate_fn=list)
    assert [path for batch in loader for path in batch] == [str(folder.root / key) for key in dataset.keys]
    folder.remove("b.bin")
    with pytest.raises(SampleError, match=r"sample 1 \('b\.bin'\).*no such file"):
        dataset[1]
    folder.put({"c.bin": b"a new version"})
    assert Path(dataset[2]).read_bytes() == b"a new version"
    prepared = StorageDataset(folder.location, decode="path", pattern="a.bin", prepare=bytes.upper, cache=None)
    path = prepared[0]
    assert path != str(folder.root / "a.bin")
    assert Path(path).read_bytes() == b"ONE"


def test_path_costs_one_request_a_file(share: Share, tmp_path: Path) -> None:
    """With a cache or without one, each file is fetched once for its path."""
    share.put({f"{n}.bin": f"content {n}" for n in range(4)})
    for cache in (None, tmp_path / "cache"):
        dataset = StorageDataset(share.location, remote=share.remote, decode="path", cache=cache)
        share.server.forget()
        paths = dataset.__getitems__([3, 1, 0, 2])
        assert [Path(path).read_text() for path in paths] == ["content 3", "content 1", "content 0", "content 2"]
        assert sorted(share.read_keys()) == ["0.bin", "1.bin", "2.bin", "3.bin"]


def test_callable_gets_the_whole_sample(share: Share, tmp_path: Path) -> None:
    """A function of a sample sees key, size and bytes, opens a seekable file, and gets a path and siblings."""
    share.put({"images/a.bin": b"0123456789", "labels/a.txt": "cat"})

    def decode(sample: Sample) -> dict[str, object]:
        with sample.open() as file:
            file.seek(4)
            middle = file.read(3)
            end = file.seek(-2, os.SEEK_END), file.read()
        return {
            "key": sample.key,
            "size": sample.size_bytes,
            "bytes": sample.bytes(),
            "middle": middle,
            "end": end,
            "path": Path(sample.path()).read_bytes(),
            "label": sample.sibling("labels/a.txt").bytes(),
        }

    for cache in (None, tmp_path / "cache"):
        dataset = StorageDataset(share.location, remote=share.remote, pattern="images/*", decode=decode, cache=cache)
        assert dataset[0] == {
            "key": "images/a.bin",
            "size": 10,
            "bytes": b"0123456789",
            "middle": b"456",
            "end": (8, b"89"),
            "path": b"0123456789",
            "label": b"cat",
        }


def test_callable_that_takes_bytes_and_path_costs_one_request(share: Share) -> None:
    """Even without a cache, a sample that is opened in several ways is fetched once."""

    def decode(sample: Sample) -> tuple[bytes, bytes, bytes]:
        return sample.bytes(), sample.open().read(), Path(sample.path()).read_bytes()

    assert only_item(share, b"once", decode) == (b"once", b"once", b"once")
    assert share.read_keys() == ["file.bin"]


def test_error_of_a_callable_names_the_sample(share: Share) -> None:
    """What a function of the user's raises comes as the cause of an error that names key, location and index."""

    def decode(sample: Sample) -> object:
        raise KeyError(sample.key)

    with pytest.raises(SampleError, match=r"sample 0 \('file\.bin'\) of http.*KeyError") as caught:
        only_item(share, b"x", decode)
    assert isinstance(caught.value.__cause__, KeyError)


def test_unknown_decode_is_refused_with_those_there_are(tmp_path: Path) -> None:
    """A misspelt ``decode`` is told before anything is asked of the storage."""
    with pytest.raises(ValueError, match=r"decode is one of 'bytes', 'text', .*callable.*not 'jpeg'"):
        StorageDataset(tmp_path / "absent", decode="jpeg")


@pytest.mark.parametrize(
    ("decode", "size"),
    [("image", (1600, 1200)), ("image@256", (400, 300)), ("image@400", (800, 600)), ("image@1200", (1600, 1200))],
)
def test_image_at_a_size_is_decoded_at_a_scale_of_its_own(share: Share, decode: str, size: tuple[int, int]) -> None:
    """A JPEG comes at the smallest scale at which no side is shorter than that; the picture is the same."""
    data = file_of(photograph(1600, 1200), "JPEG")
    image = only_item(share, data, decode)
    assert (image.mode, image.size) == ("RGB", size)
    assert difference(image.resize((100, 75)), only_item(share, data, "image").resize((100, 75))) < 2


def test_image_at_a_size_of_another_format_is_as_it_is(share: Share) -> None:
    """Only JPEG has scales; the colours are made RGB as ever."""
    assert only_item(share, file_of(photograph(1600, 1200, "RGBA"), "PNG"), "image@256").size == (1600, 1200)
    assert only_item(share, file_of(photograph(1600, 1200, "L"), "JPEG"), "image@256").mode == "RGB"


@pytest.mark.parametrize("decode", ["image@", "image@0", "image@x", "image@-5", "bytes@256", "image@256 ", None, 256])
def test_size_that_is_none_is_refused(tmp_path: Path, decode: Any) -> None:
    """The message shows how it is written."""
    with pytest.raises(ValueError, match=r"'image@256' with a size in pixels"):
        StorageDataset(tmp_path / "absent", decode=decode)
