"""Frameworks that take a path read a copy, and what they write beside the files stays theirs."""

from __future__ import annotations

import asyncio
import io
import math
import multiprocessing
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from ai4os_data import StorageDataLoader, StorageDataset, local_copy
from ai4os_data.errors import OverwriteError, StorageError
from ai4os_data.folders import progress
from tests.support.crowd import wait_for
from tests.support.folder_trainer import YOLO
from tests.support.servers import Fault
from tests.support.servers.rclone import find_rclone, obscure
from tests.support.shares import png

if TYPE_CHECKING:
    from ai4os_data import LocalCopy
    from tests.nextcloud import NextcloudServer
    from tests.support.servers import FaultServer
    from tests.support.shares import Share

CLASSES = ["blatt grün", "Öffnung"]  # names as users have them


def jpeg(color: tuple[int, int, int], side: int = 16) -> bytes:
    """A picture of one color."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), color).save(file, "JPEG", quality=95)
    return file.getvalue()


def copied(share: Share, tmp_path: Path, **options: Any) -> LocalCopy:
    """The copy of a share in the directory of the test."""
    return local_copy(share.location, tmp_path / "copy", remote=share.remote, progress=False, **options)


@pytest.fixture
def class_folders(cloud_share: Share) -> Share:
    """Twelve pictures in two class folders on Nextcloud; the red channel is the class."""
    cloud_share.put(
        {f"{CLASSES[number % 2]}/bild {number:02}.png": png((255 * (number % 2), number, 0), 8) for number in range(12)}
    )
    return cloud_share


# --- Keras


def test_keras_trains_on_a_copy(class_folders: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each picture comes once an epoch through a `PyDataset`, and the model learns the classes."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="keras is not installed")
    assert keras.backend.backend() == "torch"

    class Batches(keras.utils.PyDataset):  # type: ignore[misc, name-defined]
        def __init__(self, directory: os.PathLike[str], **options: Any) -> None:
            super().__init__(**options)
            self.paths = [str(path) for path in sorted(Path(directory).glob("*/*.png"))]
            self.order = np.random.default_rng(0).permutation(len(self.paths))
            self.given: list[str] = []

        def __len__(self) -> int:
            return math.ceil(len(self.paths) / 4)

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            paths = [self.paths[position] for position in self.order[4 * index : 4 * index + 4]]
            self.given += paths
            images = [np.array(keras.utils.load_img(path)) / 255 for path in paths]
            return np.stack(images), np.array([CLASSES.index(Path(path).parent.name) for path in paths])

    batches = Batches(copied(class_folders, tmp_path), workers=2)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")])
    model.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(batches, epochs=10, verbose=0)
    assert history.history["accuracy"][-1] == 1.0
    assert {path: batches.given.count(path) >= 10 for path in batches.paths} == dict.fromkeys(batches.paths, True)


def test_keras_takes_the_loader_which_needs_no_copy(class_folders: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each epoch gives each sample once; before the first one, Keras looks at one batch."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="keras is not installed")
    data = StorageDataset(
        class_folders.location,
        remote=class_folders.remote,
        decode="image",
        target="folder",
        transform=lambda image: torch.from_numpy(np.array(image, dtype=np.float32)),
    )
    given = []

    def collate(batch: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = zip(*batch, strict=True)
        given.append([int(image[0, 0, 1]) for image in images])
        return torch.stack(images), torch.tensor(labels)

    loader = StorageDataLoader(data, batch_size=4, shuffle=True, seed=1, collate_fn=collate)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(loader, epochs=2, shuffle=False, verbose=0)
    assert len(given) == 1 + 3 + 3
    for epoch in given[1:4], given[4:]:
        assert sorted(number for batch in epoch for number in batch) == list(range(12))


# --- Hugging Face


@pytest.fixture
def load_dataset(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The function of Hugging Face, where there is no network for it."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    datasets.disable_progress_bars()

    def load(*arguments: Any, **options: Any) -> Any:
        with monkeypatch.context() as alone:
            alone.delattr(socket, "getaddrinfo")
            return datasets.load_dataset(*arguments, **options)

    return load


def test_imagefolder_of_hugging_face_reads_the_files_of_the_copy(
    class_folders: Share, tmp_path: Path, load_dataset: Any
) -> None:
    """Its table holds no pixels, and a picture that changed comes after a refresh."""
    class_folders.put({f"{CLASSES[0]}/groß.png": noise(300)})
    copy = copied(class_folders, tmp_path)
    load = partial(load_dataset, "imagefolder", data_dir=str(copy), cache_dir=str(tmp_path / "tables"), split="train")
    table = load()
    assert table.features["label"].names == CLASSES
    assert len(table) == 13
    small = {row["image"].getpixel((0, 0)): row["label"] for row in table if row["image"].size == (8, 8)}
    assert small == {(255 * (number % 2), number, 0): number % 2 for number in range(12)}
    kept_bytes = sum(path.stat().st_size for path in (tmp_path / "tables").rglob("*") if path.is_file())
    assert kept_bytes < copy.size_bytes / 4

    class_folders.put({f"{CLASSES[0]}/bild 00.png": png((9, 8, 7), 8)})
    copy.refresh()
    assert copy.stats()["fetched"] == 1
    assert {row["image"].getpixel((0, 0)) for row in load()} >= {(9, 8, 7), (255, 1, 0)}


def noise(side: int) -> bytes:
    """A picture that cannot be compressed."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


# --- scikit-learn, joblib


def test_scikit_learn_loads_folders_and_joblib_a_model(class_folders: Share, tmp_path: Path) -> None:
    """`load_files` takes the copy itself, and what joblib wrote is mapped into memory from it."""
    joblib = pytest.importorskip("joblib", reason="scikit-learn is not installed")
    neighbors = pytest.importorskip("sklearn.neighbors")
    load_files = pytest.importorskip("sklearn.datasets").load_files
    saved = io.BytesIO()
    weights = np.arange(1000, dtype=np.float64)
    joblib.dump({"weights": weights}, saved)
    class_folders.put({"models/model.joblib": saved.getvalue()})
    copy = copied(class_folders, tmp_path)

    found = load_files(copy, load_content=False, categories=CLASSES, shuffle=False)
    assert found.target_names == CLASSES
    pixels = [np.array(Image.open(path)).ravel() for path in found.filenames]
    assert neighbors.KNeighborsClassifier(1).fit(pixels, found.target).score(pixels, found.target) == 1.0

    mapped = joblib.load(copy / "models" / "model.joblib", mmap_mode="r")["weights"]
    assert isinstance(mapped, np.memmap)
    assert (mapped == weights).all()


# --- OpenCV


def test_opencv_reads_every_file_whatever_its_name(share: Share, tmp_path: Path) -> None:
    """`cv2.imread` gives None for what it cannot open; of a copy it opens each."""
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    names = ["Straße 7/Öl.png", "Straße 7/O\u0308l 2.png", "日本/山.png", "e e/a+b%20c#1.png", "📷.png"]
    share.put({name: png((number, 20, 30)) for number, name in enumerate(names)})
    directory = os.fspath(copied(share, tmp_path))
    seen = {}
    for folder, _, files in os.walk(directory):
        for file in files:
            path = os.path.join(folder, file)
            image = cv2.imread(path)
            seen[os.path.relpath(path, directory)] = tuple(map(int, image[0, 0]))  # blue first
    assert seen == {name: (30, 20, number) for number, name in enumerate(names)}


# --- what rclone copy leaves


def test_what_rclone_could_not_copy_is_missing_in_the_training_and_an_error_here(
    fault: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that looks at no exit code trains on the rest; `local_copy` names the file."""
    folder = fault.root / "birds"
    for name, content in (yolo_files(range(4)) | DESCRIPTION).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    fault.always("birds/images/train/2.jpg", Fault(status=403))
    environ = {"TYPE": "webdav", "URL": fault.url, "USER": fault.user, "PASS": obscure(fault.password)}
    for name, value in environ.items():
        monkeypatch.setenv(f"RCLONE_CONFIG_RSHARE_{name}", value)

    before = tmp_path / "before"
    ended = subprocess.run(
        [find_rclone(), "copy", "rshare:birds", before], timeout=100, check=False, capture_output=True
    )
    assert ended.returncode != 0
    assert YOLO().train(data=before / "data.yaml")["images"] == 3

    with pytest.raises(OverwriteError, match="overwrite=True"):  # what rclone wrote, nobody has verified
        local_copy("rshare:birds", before, progress=False)
    with pytest.raises(StorageError, match=r"2\.jpg"):
        local_copy("rshare:birds", tmp_path / "after", progress=False)
    fault.heal()
    after = local_copy("rshare:birds", tmp_path / "after", progress=False)
    assert after.stats()["fetched"] == 1
    assert YOLO().train(data=after / "data.yaml")["images"] == 4
    assert local_copy("rshare:birds", before, overwrite=True, progress=False).stats()["fetched"] == 9
    assert local_copy("rshare:birds", before, progress=False).stats()["fetched"] == 0


# --- h5py, zarr


def test_h5py_opens_a_file_of_a_copy_and_reading_changes_nothing(share: Share, tmp_path: Path) -> None:
    """A second call finds it as it was."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    values = np.random.default_rng(0).random((64, 500))
    made = io.BytesIO()
    with h5py.File(made, "w") as file:
        file.create_dataset("celsius", data=values, chunks=(8, 500), compression="gzip")
    share.put({"2026/stations.h5": made.getvalue()})
    copy = copied(share, tmp_path)
    with h5py.File(copy / "2026" / "stations.h5") as file:
        assert (file["celsius"][10:20] == values[10:20]).all()
    copy.refresh()
    assert copy.stats()["fetched"] == 0


def test_zarr_opens_the_copy_of_a_directory_of_chunks(cloud_share: Share, tmp_path: Path) -> None:
    """Thousands of small files come from Nextcloud in archives, and are the array."""
    zarr = pytest.importorskip("zarr", reason="zarr 3 needs Python 3.11")
    values = np.random.default_rng(0).random((250, 80)).astype(np.float32)
    made = zarr.create_array(cloud_share.root / "grid.zarr", shape=values.shape, chunks=(5, 2), dtype="float32")
    made[:] = values
    copy = local_copy(
        f"{cloud_share.location}/grid.zarr", tmp_path / "grid.zarr", remote=cloud_share.remote, progress=False
    )
    assert len(copy.files) == 50 * 40 + 1
    assert copy.stats()["requests_archive"] >= 1
    assert copy.stats()["requests_get"] < 100
    assert (zarr.open_array(copy.path, mode="r")[:] == values).all()


# --- a folder trainer, as a stand-in for Ultralytics


def yolo_files(numbers: range, color: tuple[int, int, int] = (10, 20, 30)) -> dict[str, bytes]:
    """Pictures, and a box in each, as Ultralytics has them."""
    return {f"images/train/{number}.jpg": jpeg(color) for number in numbers} | {
        f"labels/train/{number}.txt": b"0 0.5 0.5 0.2 0.2\n" for number in numbers
    }


DESCRIPTION = {"data.yaml": b"train: images/train\nnames: [bird]\n"}


@pytest.fixture
def boxes(cloud_share: Share) -> Share:
    """Eight pictures with a box each, and the description of them."""
    cloud_share.put(yolo_files(range(8)) | DESCRIPTION)
    return cloud_share


def trained(directory: LocalCopy, cache: str | None = None) -> tuple[YOLO, dict[str, float]]:
    """What a training over a copy read, and what it gave."""
    trainer = YOLO()
    return trainer, trainer.train(data=directory / "data.yaml", epochs=2, cache=cache)


def test_caches_of_a_trainer_stay_in_the_copy(boxes: Share, tmp_path: Path) -> None:
    """They lie beside the images, are no files of the copy, and serve the second training."""
    copy = copied(boxes, tmp_path)
    first, found = trained(copy, "disk")
    assert found["images"] == found["boxes"] == 8
    assert (len(first.parsed), len(first.decoded)) == (8, 8)
    caches = sorted([*copy.path.rglob("*.npy"), *copy.path.rglob("*.cache")])
    assert [path.name for path in caches] == [*(f"{number}.npy" for number in range(8)), "train.cache"]

    again = copied(boxes, tmp_path)
    assert again.stats()["fetched"] == 0
    assert len(again.files) == 17
    second, _ = trained(again, "disk")
    assert second.parsed == second.decoded == []


def test_caches_of_a_trainer_are_old_after_a_change_and_nobody_else_s_business(boxes: Share, tmp_path: Path) -> None:
    """Changed and new images arrive, vanished ones go, all caches stay; the page says how to delete them."""
    copy = copied(boxes, tmp_path)
    trained(copy, "disk")
    boxes.put(yolo_files(range(1), (200, 200, 200)) | yolo_files(range(8, 9)))
    boxes.remove("images/train/7.jpg", "labels/train/7.txt")
    copy.refresh()
    assert (copy.stats()["fetched"], copy.stats()["removed"]) == (4, 2)
    assert Image.open(copy / "images" / "train" / "0.jpg").getpixel((0, 0)) == (200, 200, 200)
    assert not (copy / "images" / "train" / "7.jpg").exists()
    assert len([*copy.path.rglob("*.npy")]) == 8

    stale, found = trained(copy, "disk")
    assert len(stale.parsed) == found["images"] == 8  # another sum of sizes, and other paths
    assert [Path(path).name for path in stale.decoded] == ["8.jpg"]  # 0.npy is still the old 0.jpg
    files = {copy.path / name for name in copy.files}
    for path in [*copy.path.rglob("*.cache"), *copy.path.rglob("*.npy")]:
        assert path not in files
        path.unlink()
    fresh, now = trained(copy, "disk")
    assert len(fresh.decoded) == 8
    assert now["pixels"] > found["pixels"] + 10


def test_same_sizes_leave_the_labels_of_a_trainer_old(boxes: Share, tmp_path: Path) -> None:
    """Why deleting the caches is on the page: a label of the same length is not noticed by the trainer."""
    copy = copied(boxes, tmp_path)
    trained(copy)
    boxes.put({"labels/train/0.txt": b"0 0.1 0.1 0.2 0.2\n"})
    copy.refresh()
    assert copy.stats()["fetched"] == 1
    assert trained(copy)[0].parsed == []


def test_an_image_that_a_trainer_repaired_is_named(boxes: Share, tmp_path: Path) -> None:
    """It stays as it was repaired until `overwrite=True` brings that of the storage."""
    broken = jpeg((1, 2, 3)) + b"\0\0"  # as some cameras leave it
    boxes.put({"images/train/3.jpg": broken})
    copy = copied(boxes, tmp_path)
    trained(copy)
    repaired = copy / "images" / "train" / "3.jpg"
    assert repaired.read_bytes() != broken
    with pytest.raises(OverwriteError, match=r"images/train/3\.jpg"):
        copied(boxes, tmp_path)
    assert repaired.read_bytes() != broken
    again = copied(boxes, tmp_path, overwrite=True)
    assert again.stats()["fetched"] == 1
    assert repaired.read_bytes() == broken


def test_a_cache_of_a_trainer_on_the_storage_is_left_out_by_pattern(boxes: Share, tmp_path: Path) -> None:
    """Somebody uploaded a directory after a training: the trainer overwrites what came, and a pattern helps."""
    other = local_copy(boxes.location, tmp_path / "other", remote=boxes.remote, progress=False)
    trained(other)
    boxes.put({"labels/train.cache": (other / "labels" / "train.cache").read_bytes()})
    copy = copied(boxes, tmp_path)
    trained(copy)
    with pytest.raises(OverwriteError, match=r"labels/train\.cache"):
        copied(boxes, tmp_path)
    pattern = ["**/*.jpg", "**/*.txt", "*.yaml"]
    chosen = copied(boxes, tmp_path, pattern=pattern)
    assert chosen.stats()["fetched"] == 0
    assert len(chosen.files) == 17
    assert (chosen / "labels" / "train.cache").exists()


# --- DEEPaaS


def train(location: str, remote: Any, **arguments: Any) -> dict[str, Any]:
    """The function of a module, as DEEPaaS calls it: synchronous, with keywords, in a thread or process of a pool."""
    directory = os.environ["MYAPP_DATA_PATH"]
    local_copy(location, directory, remote=remote)
    return {"epochs": arguments["epochs"], "classes": sorted(os.listdir(directory))}


def test_train_of_a_module_copies_away_from_the_main_thread(
    class_folders: Share,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A loop of asyncio goes on meanwhile. Without a terminal there is no bar, but a line in the log now and then."""
    monkeypatch.setenv("MYAPP_DATA_PATH", str(tmp_path / "data"))
    monkeypatch.setattr(progress, "_LOG_EVERY_S", 0.0)
    caplog.set_level("INFO", "ai4os_data")
    ticks = 0

    async def serve() -> dict[str, Any]:
        nonlocal ticks
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            call = partial(train, class_folders.location, class_folders.remote, epochs=3)
            running = loop.run_in_executor(pool, call)
            while not running.done():
                ticks += 1
                await asyncio.sleep(0.01)
            return await running

    assert asyncio.run(serve()) == {"epochs": 3, "classes": sorted(CLASSES)}
    assert ticks > 1
    assert capfd.readouterr().err == ""
    lines = [line for line in caplog.messages if line.startswith("data: ")]
    assert ", 12 of 12 files, " in lines[-1]


def test_train_that_is_cancelled_leaves_whole_files_and_the_next_one_resumes(
    nextcloud: NextcloudServer, cloud_share: Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEEPaaS ends the process of a training that is cancelled, in the midst of whatever it does."""
    monkeypatch.setenv("MYAPP_DATA_PATH", str(tmp_path / "data"))
    content = {f"{number:03}.bin": np.random.default_rng(number).bytes(1000) for number in range(200)}
    cloud_share.put(content)
    directory = tmp_path / "data"
    nextcloud.set_costs(member_cost_s=0.02)
    try:
        with multiprocessing.get_context("fork").Pool(1) as pool:  # leaving it ends its process with SIGTERM
            pool.apply_async(train, (cloud_share.location, cloud_share.remote), {"epochs": 1})
            wait_for(lambda: len([*directory.glob("*.bin")]) >= 5)
    finally:
        nextcloud.set_costs(member_cost_s=0.0)
    came = {path.name: path.read_bytes() for path in directory.glob("*.bin")}
    assert 5 <= len(came) < 200
    assert came == {name: content[name] for name in came}

    rest = local_copy(cloud_share.location, directory, remote=cloud_share.remote, progress=False)
    assert rest.stats()["fetched"] == 200 - len(came)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == content
