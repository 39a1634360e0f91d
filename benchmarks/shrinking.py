"""Photographs that are made smaller as they come: what an epoch and the disk gain, beside bare Pillow.

Run it as ``python -m benchmarks.shrinking --quick --json shrinking.json``.
"""

from __future__ import annotations

import io
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

# As a script, Python looks beside it, not above.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from ai4os_data import DiskCache, Remote, StorageDataLoader, StorageDataset, local_copy, shrink
from ai4os_data.machine import usable_processors
from benchmarks.command import Options, run
from benchmarks.report import Report, at_least
from benchmarks.static_server import StaticServer
from benchmarks.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ai4os_data import LocalCopy

WIDTH, HEIGHT = 4000, 3000
SIDE, QUALITY = 256, 90
SIZE = (SIDE, SIDE * HEIGHT // WIDTH)
GRAIN = 3.0  # of the sensor: files of 3.4 MB, as phones write them

BARS = {"shrink_gain": at_least(20), "shrink_disk": at_least(20), "shrink_rate": at_least(0.9)}
ORIGINALS = "a warm epoch of originals"
SCALED = 'a warm epoch of originals, decode="image@256"'
SHRUNK = "a warm epoch with shrink(256)"
PIXELS = 'a warm epoch with shrink(256, keep="pixels")'
OURS, PILLOW = "local_copy with shrink(256)", "Pillow alone: draft, resize, save"
WARM = "warm() with shrink(256)"
MS, BYTES, RATE = "ms a photograph", "bytes a photograph on the disk", "photographs/s"


def measure(options: Options) -> Report:
    """Measure both parts."""
    report = Report("shrinking", BARS, settings(options))
    for part, measure_part in PARTS.items():
        if options.wants(part):
            measure_part(report, options)
    return report


def settings(options: Options) -> dict[str, object]:
    """What is read."""
    number = options.choose(4, 48, 96)
    return {"photographs": f"{number} of {WIDTH} x {HEIGHT} pixels", "processors": usable_processors()}


# --- the photographs


def photographs_of(options: Options) -> list[Path]:
    """JPEGs of 12 megapixels: broad areas, details, and the noise of a sensor. No two files are the same."""
    folder = options.directory / "photographs"
    paths = [folder / f"{index:04d}.jpg" for index in range(options.choose(4, 48, 96))]
    if folder.exists():
        return paths
    folder.mkdir()
    random = np.random.default_rng(20261128)
    files = [_jpeg(random) for _ in range(4)]
    for index, path in enumerate(paths):
        path.write_bytes(files[index % len(files)] + b"%d" % index)  # behind its end, where no decoder looks
    return paths


def _jpeg(random: np.random.Generator) -> bytes:
    pixels = _clouds(random, 64, 50.0) + 128 + _clouds(random, 4, 18.0)
    pixels += random.normal(0, GRAIN, (HEIGHT, WIDTH, 1)).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _clouds(random: np.random.Generator, scale: int, contrast: float) -> Any:
    """Three colours that change over so many pixels."""
    coarse = random.normal(0, contrast, (3, HEIGHT // scale, WIDTH // scale)).astype(np.float32)
    size = (WIDTH, HEIGHT)
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC)) for one in coarse], -1)


# --- an epoch


def to_array(image: Image.Image) -> Any:
    """What a training makes of an image, by the filter that torchvision takes."""
    return np.array(image.resize(SIZE, Image.Resampling.BILINEAR))  # one that can be written to


def measure_gain(report: Report, options: Options) -> None:
    """Warm epochs of a loader with a worker for each processor, and the disk that the cache takes."""
    ways: dict[str, dict[str, Any]] = {
        ORIGINALS: {"decode": "image"},
        SCALED: {"decode": f"image@{SIDE}"},
        SHRUNK: {"decode": "image", "prepare": shrink(SIDE, QUALITY)},
        PIXELS: {"decode": "image", "prepare": shrink(SIDE, keep="pixels")},
    }
    with StaticServer(photographs_of(options)[0].parent) as server:
        epochs: dict[str, Callable[[], float]] = {}
        for number, (name, way) in enumerate(ways.items()):
            cache = DiskCache(options.directory / f"photograph cache {number}", "4GiB")
            remote = Remote(server.url, "alice", "unasked")
            dataset = StorageDataset(server.url, remote=remote, cache=cache, transform=to_array, **way)
            warmed = dataset.warm(progress=False)
            assert warmed["files"] == len(dataset)
            report.add(f"{name.removeprefix('a warm epoch ')}: disk", _disk_bytes(cache) / len(dataset), BYTES)
            epochs[name] = _warm_epoch(dataset, 1 if way.get("prepare") is None else 20)
        for number in options.rounds("gain", 15):
            for name in list(epochs)[:: 1 if number % 2 else -1]:
                report.add(name, epochs[name]() * 1000, MS)
    report.ratio("shrink_gain", ORIGINALS, SHRUNK)
    report.ratio("shrink_disk", "of originals: disk", "with shrink(256): disk")


def _disk_bytes(cache: DiskCache) -> int:
    """The blocks of all files of the cache's samples."""
    return sum(path.stat().st_blocks * 512 for path in Path(cache.directory).glob("objects/*/*"))


def _warm_epoch(dataset: StorageDataset, times: int) -> Callable[[], float]:
    """What gives the seconds a photograph in warm epochs, whose workers have started already."""
    loader = StorageDataLoader(
        dataset, batch_size=4, shuffle=True, num_workers=usable_processors(), persistent_workers=True
    )

    def epochs(count: int) -> float:
        begun = time.perf_counter()
        seen = sum(len(batch) for _ in range(count) for batch in loader)
        assert seen == count * len(dataset)
        return (time.perf_counter() - begun) / seen

    epochs(1)
    return partial(epochs, times)


# --- the work itself


def measure_rate(report: Report, options: Options) -> None:
    """A copy of a directory on this disk, beside processes that do nothing but Pillow's part of it."""
    photographs = photographs_of(options)
    shares = [photographs[start :: usable_processors()] for start in range(usable_processors())]
    target = options.directory / "pillow"
    target.mkdir()

    def prepare(index: int) -> Callable[[], None]:
        return lambda: by_pillow(shares[index], target)

    copy(photographs[0].parent, options.directory / "first smaller copy")
    with Workers(len(shares), prepare) as pillow:
        pillow.run()
        for number in options.rounds("rate", 20):
            ways: dict[str, Callable[[], float]] = {
                OURS: partial(_copied_s, photographs[0].parent, options.directory / f"smaller copy {number}"),
                PILLOW: lambda: pillow.run()[0],
                WARM: partial(_warmed_s, photographs[0].parent, options.directory / f"warm cache {number}"),
            }
            for name in list(ways)[:: 1 if number % 2 else -1]:
                report.add(name, len(photographs) / ways[name](), RATE)
    report.ratio("shrink_rate", OURS, PILLOW)


def by_pillow(photographs: Sequence[Path], target: Path) -> None:
    """The least that a smaller photograph takes."""
    for path in photographs:
        with Image.open(path) as image:
            image.draft("RGB", SIZE)
            image.resize(SIZE, Image.Resampling.LANCZOS).save(target / path.name, "JPEG", quality=QUALITY)


def copy(source: Path, target: Path) -> LocalCopy:
    """A copy with smaller photographs."""
    return local_copy(source, target, prepare=shrink(SIDE, QUALITY), progress=False)


def _copied_s(source: Path, target: Path) -> float:
    begun = time.perf_counter()
    made = copy(source, target)
    seconds = time.perf_counter() - begun
    assert max(Image.open(made.path / made.files[-1]).size) == SIDE
    shutil.rmtree(target)
    return seconds


def _warmed_s(source: Path, directory: Path) -> float:
    cache = DiskCache(directory, "1GiB")
    dataset = StorageDataset(source, cache=cache, prepare=shrink(SIDE, QUALITY))
    begun = time.perf_counter()
    assert dataset.warm(progress=False)["files"] == len(dataset)
    return time.perf_counter() - begun


PARTS = {"gain": measure_gain, "rate": measure_rate}

if __name__ == "__main__":
    sys.exit(run(measure, "Make photographs smaller, and compare.", tuple(PARTS)))
