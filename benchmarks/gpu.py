"""On a GPU: a save holds the state at its call, a resumed training has equal losses, and what a save costs.

Run it as ``python -m benchmarks.gpu --json gpu.json`` on a machine with a card: it needs torch with CUDA and what
ai4os-data itself needs, and takes less than four minutes. A proof that fails ends it with an error.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # as a script, Python looks beside it, not above
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before the card is used: equal losses want equal sums

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.utils.data import DataLoader, Dataset

from ai4os_data import StorageCheckpoint, StorageDataLoader, StorageDataset
from benchmarks.command import Options, run
from benchmarks.gpu_training import WAYS, Training, Way, differences
from benchmarks.report import Report, at_most

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ai4os_data import Sample

MIB = 2**20
TENSORS = 600
FILE_BYTES = 110_000
_BATCH = 64
_WORKERS = 4

BARS = {"stall_vs_copy_1gib": at_most(1.3), "stall_vs_copy_4gib": at_most(1.3)}
PARTS = ("proofs", "restore", "loader", "stall")


class ProofError(AssertionError):
    """A save differs from the state at its call, or a resumed training from one that was left alone."""


def measure(options: Options) -> Report:
    """Prove and measure all parts."""
    device = _device(options)
    settings = {
        "card": torch.cuda.get_device_name()
        if device == "cuda"
        else "none: the CPU alone, and its figures mean nothing",
        "cuda": torch.version.cuda or "none",
        "stall": f"{TENSORS} tensors, store and spool are directories",
    }
    report = Report("gpu", BARS, settings)
    parts: dict[str, Callable[[Report, Options, str], None]] = {
        "proofs": prove_saves,
        "restore": prove_restores,
        "loader": measure_loader,
        "stall": measure_stall,
    }
    for name, part in parts.items():
        if options.wants(name):
            begun = time.monotonic()
            part(report, options, device)
            print(f"{name}: {time.monotonic() - begun:.0f} s in all", file=sys.stderr)
    return report


def _device(options: Options) -> str:
    """The card; or the CPU, if the script is only tried.

    Raises:
        SystemExit: there is no card.
    """
    if torch.cuda.is_available():
        return "cuda"
    if options.tiny:
        return "cpu"
    raise SystemExit(
        "there is no CUDA device: run this where there is one (--tiny shows on a CPU that the script runs)"
    )


def _ways(device: str) -> Iterator[Way]:
    for way in WAYS:
        if device == "cuda" or not way.needs_cuda:
            yield way
        else:
            print(f"{way.name}: left out, there is no CUDA device", file=sys.stderr)


# --- proofs


def prove_saves(report: Report, options: Options, device: str) -> None:
    """A save holds the state at its call, bit for bit, although the next steps change the state at once."""
    ballast = options.choose(1, 64, 128) * MIB
    rounds = options.choose(2, 4, 4)
    for way in _ways(device):
        place = options.directory / "proofs"
        training = Training(way, device, ballast)
        expected: dict[int, dict[str, torch.Tensor]] = {}
        with StorageCheckpoint(place / "run", spool=place / "spool", keep_last=rounds) as saver:
            for number in range(0, 10 * rounds, 10):
                training.keep_busy()
                for step in range(number, number + 3):
                    training.step(step)
                expected[number] = training.expected()
                with training.where_saved():
                    handle = saver.save(training.state(), number)
                for step in range(number + 3, number + 6):
                    training.step(step)
                handle.wait()
            _synchronize(device)
            for number, tensors in expected.items():
                restored = saver.restore(step=number)
                if restored is None or (wrong := differences(dict(restored), tensors)):
                    raise ProofError(f"{way.name}: step {number} was saved with other values in {wrong[:5]}")
        shutil.rmtree(place)
        report.add(f"saved bit for bit: {way.name}", rounds, "saves")


def prove_restores(report: Report, options: Options, device: str) -> None:
    """A training that is restored into new objects has the losses and weights of one that was not interrupted."""
    steps = options.choose(3, 10, 10)
    for way in _ways(device):
        place = options.directory / "restore"
        alone = Training(way, device, 4)
        with StorageCheckpoint(place / "run", spool=place / "spool") as saver:
            _losses(alone, device, range(steps))
            saver.save(alone.state(), steps).wait()
        losses = _losses(alone, device, range(steps, 2 * steps))
        other = Training(way, device, 4, seed=1)
        with StorageCheckpoint(place / "run", spool=place / "spool") as saver:
            objects = {name: value for name, value in other.state().items() if name != "ballast"}
            restored = saver.restore(into=objects, map_location=device)
            if restored is None:
                raise ProofError(f"{way.name}: there is nothing to restore")
            other.ballast.copy_(restored["ballast"])
            _synchronize(device)  # what follows may be on another stream
        _check_devices(way, restored, device)
        again = _losses(other, device, range(steps, 2 * steps))
        if losses != again:
            raise ProofError(f"{way.name}: the losses are {again}, and without the interruption {losses}")
        if wrong := differences(other.state(), alone.expected()):
            raise ProofError(f"{way.name}: the weights differ afterwards in {wrong[:5]}")
        shutil.rmtree(place)
        report.add(f"resumed with the same losses: {way.name}", steps, "steps")


def _losses(training: Training, device: str, steps: Iterable[int]) -> list[float]:
    found = []
    for step in steps:
        training.step(step)
        _synchronize(device)
        found.append(training.loss())
    return found


def _check_devices(way: Way, restored: Any, device: str) -> None:
    elsewhere = [name for name, tensor in restored["model"].items() if tensor.device.type != device]
    if elsewhere:
        raise ProofError(f"{way.name}: {elsewhere[:5]} were not restored to {device}")


# --- a loader that feeds the card


class Plain(Dataset[torch.Tensor]):
    """The same files, as plain PyTorch reads them."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        """The number of files."""
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        """The bytes of one file."""
        return torch.frombuffer(bytearray(self._paths[index].read_bytes()), dtype=torch.uint8)


def _decoded(sample: Sample) -> torch.Tensor:
    return torch.frombuffer(bytearray(sample.bytes()), dtype=torch.uint8)


def measure_loader(report: Report, options: Options, device: str) -> None:
    """Pinned batches that reach the card, compared byte by byte, beside a plain DataLoader over local files."""
    place = options.directory / "files"
    place.mkdir()
    generator = torch.Generator().manual_seed(0)
    total = 0
    for number in range(options.choose(_BATCH, 2_048, 4_096)):
        content = torch.randint(256, (FILE_BYTES,), dtype=torch.uint8, generator=generator)
        total += int(content.sum())
        (place / f"{number:05}.bin").write_bytes(content.numpy().tobytes())
    paths = sorted(place.iterdir())
    common: dict[str, Any] = {"batch_size": _BATCH, "num_workers": _WORKERS, "pin_memory": device == "cuda"}
    cache = options.directory / "cache"
    dataset = StorageDataset(place, pattern="*.bin", decode=_decoded, cache=cache)
    ours = StorageDataLoader(dataset, shuffle=True, persistent_workers=True, **common)
    plain = DataLoader(Plain(paths), shuffle=True, persistent_workers=True, **common)
    for loader in (ours, plain):
        _fed(loader, device)  # workers start, and the cache fills
    for number in options.rounds("loader", 20):
        for name, loader in (("ours", ours), ("plain", plain))[:: -1 if number % 2 else 1]:
            begun = time.perf_counter()
            found = _fed(loader, device)
            report.add(f"loader to the card, {name}", len(paths) / (time.perf_counter() - begun), "files/s")
            if found != total:
                raise ProofError(f"{name}: the bytes on the card add up to {found}, and those on the disk to {total}")
    report.ratio("loader_vs_plain", "loader to the card, ours", "loader to the card, plain")


def _fed(loader: Iterable[torch.Tensor], device: str) -> int:
    total = torch.zeros((), dtype=torch.int64, device=device)
    for batch in loader:
        if device == "cuda" and not batch.is_pinned():
            raise ProofError("a batch is not in pinned memory, although the loader was told so")
        total += batch.to(device, non_blocking=True).sum()
    return int(total)


# --- what a save costs


def measure_stall(report: Report, options: Options, device: str) -> None:
    """The time that each way to save stops a training, beside a bare copy into pinned memory; in turns."""
    store = dist.HashStore()  # type: ignore[attr-defined]  # it is documented, and not in __all__
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        for label, size_bytes in (("1gib", options.choose(4, 1_024, 1_024)), ("4gib", options.choose(8, 4_096, 4_096))):
            _measure_stall_of(report, options, device, label, size_bytes * MIB)
    finally:
        dist.destroy_process_group()


def _measure_stall_of(report: Report, options: Options, device: str, label: str, size_bytes: int) -> None:
    state = {
        f"layer-{number}": torch.full((size_bytes // 4 // TENSORS,), float(number), device=device)
        for number in range(TENSORS)
    }
    pinned = [torch.empty(tensor.shape, pin_memory=device == "cuda") for tensor in state.values()]
    place = options.directory / "stall"
    place.mkdir()
    with StorageCheckpoint(place / "run", spool=place / "spool", keep_last=1) as saver:

        def copy() -> Callable[[], object]:
            for buffer, tensor in zip(pinned, state.values(), strict=True):
                buffer.copy_(tensor, non_blocking=True)
            return lambda: None

        def ours() -> Callable[[], object]:
            return saver.save(state, next(steps)).wait

        def saved() -> Callable[[], object]:
            torch.save(state, place / "plain.pt")
            return lambda: None

        steps = iter(range(10**6))
        ways = {"bare copy": copy, "save": ours, "torch.save": saved, **_others(state, place, device)}
        copy_name, save_name = f"{label}: bare copy", f"{label}: save"
        for name, way in ways.items():
            report.add(f"{label}: {name}, the first", _timed(way, device), "s")
        _timed(ours, device)
        for number in options.rounds(f"stall {label}", 15):
            for name in list(ways)[:: -1 if number % 2 else 1]:
                report.add(f"{label}: {name}", _timed(ways[name], device), "s")
    report.ratio(f"stall_vs_copy_{label}", save_name, copy_name)
    shutil.rmtree(place)


def _timed(way: Callable[[], Callable[[], object]], device: str) -> float:
    """The seconds until the training may change the state again; afterwards the save is completed."""
    _synchronize(device)
    begun = time.perf_counter()
    finish = way()
    _synchronize(device)
    stall_s = time.perf_counter() - begun
    finish()
    return stall_s


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _others(state: dict[str, torch.Tensor], place: Path, device: str) -> dict[str, Callable[[], Callable[[], object]]]:
    """Other ways to save, as far as they are installed."""
    found: dict[str, Callable[[], Callable[[], object]]] = {}
    with suppress(ImportError):
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        is_cuda = device == "cuda"
        stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=is_cuda,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=is_cuda,
            )
        )

        def by_dcp() -> Callable[[], object]:
            shutil.rmtree(place / "dcp", ignore_errors=True)
            answer: Any = dcp.async_save(  # type: ignore[attr-defined]  # documented, and not in __all__
                dict(state), checkpoint_id=place / "dcp", async_stager=stager
            )
            finish: Callable[[], object] = getattr(answer, "upload_completion", answer).result
            return finish

        found["DCP async_save, pinned"] = by_dcp
    with suppress(ImportError):
        from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

        def by_lightning() -> Callable[[], object]:
            plugin = AsyncCheckpointIO(TorchCheckpointIO())
            plugin.save_checkpoint(state, str(place / "lightning.ckpt"))
            return plugin.teardown

        found["Lightning's AsyncCheckpointIO"] = by_lightning
    return found


if __name__ == "__main__":
    sys.exit(run(measure, str(__doc__), PARTS))
