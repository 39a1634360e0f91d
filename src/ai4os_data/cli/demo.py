"""The demo: train on scanned digits over WebDAV, and show what the cache does from the second epoch on."""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from ai4os_data.cache import DiskCache
from ai4os_data.cli.digits import digit_files
from ai4os_data.cli.server_process import serve
from ai4os_data.datasets import StorageDataset
from ai4os_data.locations import Remote
from ai4os_data.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from PIL import Image

_UPLOADS_AT_ONCE = 16
_BATCH = 64
_MIB = 2**20

_HEADINGS = ("epoch", "images/s", "from the network", "hit rate", "test accuracy")
_ROW = "{:>5}  {:>8}  {:>16}  {:>8}  {:>13}"


@dataclass(frozen=True)
class Options:
    """What can be chosen; ``least_accuracy`` is a share, and the others are those of the command line."""

    epochs: int
    workers: int
    latency_ms: float
    cache_size: str
    least_accuracy: float = 0.95


class Digits(nn.Sequential):
    """A small convolutional network: 1 x 8 x 8 grey images in, ten logits out."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 10),
        )


def run(options: Options) -> int:
    """Run the demo; gives the exit code."""
    password = secrets.token_urlsafe()
    with tempfile.TemporaryDirectory(prefix="ai4os-data-demo-") as scratch:
        cache = DiskCache(Path(scratch, "cache"), size_limit=options.cache_size)
        with serve(Path(scratch, "server"), user="demo", password=password, latency_s=options.latency_ms / 1000) as url:
            print(f"A WebDAV server at {url} answers each request after {options.latency_ms:g} ms.")
            remote = Remote(url, user="demo", password=password)
            _upload(url, remote)
            accuracy = _train(url, remote, cache, options)
        used = cache.stats()
        print(
            f"\nThe cache holds {used['entries']:,} files"
            f" in {used['bytes'] / _MIB:.1f} of {used['size_limit'] / _MIB:.1f} MiB."
        )
    if accuracy < options.least_accuracy:
        print(f"The demo failed: test accuracy {accuracy:.1%} is below {options.least_accuracy:.0%}.", file=sys.stderr)
        return 1
    return 0


def to_tensor(image: Image.Image) -> torch.Tensor:
    """A grey 1 x H x W float tensor between 0 and 1."""
    return torch.from_numpy(np.array(image.convert("L"), dtype=np.float32) / 255).unsqueeze(0)


def _upload(url: str, remote: Remote) -> None:
    files = digit_files()
    store = open_store(url, remote)
    begin = time.perf_counter()
    # One file of each folder goes first: wsgidav answers 500 when two requests make the same folder at once.
    by_folder = {key.rpartition("/")[0]: key for key in files}
    for key in by_folder.values():
        store.write(key, files[key])
    rest = files.keys() - by_folder.values()
    with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as pool:
        for _ in pool.map(lambda key: store.write(key, files[key]), rest):
            pass
    print(f"{len(files):,} scanned digits went up as PNG files in {time.perf_counter() - begin:.1f} s.")


def _train(url: str, remote: Remote, cache: DiskCache, options: Options) -> float:
    def dataset(part: str) -> StorageDataset:
        return StorageDataset(
            url + part,
            remote=remote,
            pattern="**/*.png",
            decode="image",
            target="folder",
            transform=to_tensor,
            cache=cache,
        )

    def loader(part: StorageDataset, *, shuffle: bool) -> DataLoader[Any]:
        return DataLoader(
            part, _BATCH, shuffle=shuffle, num_workers=options.workers, persistent_workers=options.workers > 0
        )

    torch.manual_seed(0)
    torch.set_num_threads(1)  # for a network this small more threads only wait for each other
    parts = train, test = dataset("train"), dataset("test")
    train_loader, test_loader = loader(train, shuffle=True), loader(test, shuffle=False)
    model = Digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    accuracy = 0.0
    print(f"Training on {len(train):,} of them, testing on {len(test):,}.\n\n{_ROW.format(*_HEADINGS)}")
    for epoch in range(1, options.epochs + 1):
        before, begin = _counted(parts), time.perf_counter()
        _learn(model, optimizer, train_loader)
        accuracy = _accuracy(model, test_loader)
        seconds = time.perf_counter() - begin
        print(_row(epoch, seconds, _counted(parts) - before, accuracy), flush=True)
    return accuracy


def _counted(parts: Iterable[StorageDataset]) -> Counter[str]:
    """What the datasets have done so far, in all processes."""
    return sum((Counter(part.stats()) for part in parts), Counter())


def _row(epoch: int, seconds: float, counted: Counter[str], accuracy: float) -> str:
    images = counted["hits"] + counted["misses"]
    return _ROW.format(
        epoch,
        f"{images / seconds:,.0f}",
        f"{counted['bytes_from_network'] / 1000:,.1f} kB",
        f"{counted['hits'] / images:.1%}",
        f"{accuracy:.1%}",
    )


def _learn(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[Any]) -> None:
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _accuracy(model: nn.Module, loader: DataLoader[Any]) -> float:
    model.eval()
    right = seen = 0
    with torch.inference_mode():
        for images, labels in loader:
            right += int((model(images).argmax(1) == labels).sum())
            seen += len(labels)
    return right / seen
