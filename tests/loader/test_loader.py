"""A `StorageDataLoader` is a DataLoader in every argument; it ends with its owner, and logs how an epoch went."""

from __future__ import annotations

import inspect
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Subset,
    TensorDataset,
    get_worker_info,
    random_split,
)

from ai4os_data import Sample, StorageDataLoader
from ai4os_data.errors import NotFoundError, SampleError
from tests.support.epochs import (
    FILES,
    NUMBER,
    as_list,
    children,
    dataset_of,
    flat,
    loader_of,
    look_ahead_threads,
    nothing_left_running,
    only_key,
    taken,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.shares import Share

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


def as_tensor(sample: Sample) -> torch.Tensor:
    """The number of a sample, as a tensor."""
    return torch.tensor(int(sample.key[:2]))


def slowly(sample: Sample) -> str:
    """The key of a sample, after a while."""
    time.sleep(0.02)
    return sample.key


def test_takes_every_argument_of_a_dataloader() -> None:
    """Names, positions and defaults are the same."""
    ours = inspect.signature(StorageDataLoader).parameters
    for place, (name, parameter) in enumerate(inspect.signature(DataLoader).parameters.items()):
        if name in {"in_order", "pin_memory_device"}:  # not in all versions of torch
            continue
        assert ours[name].default == parameter.default, name
        assert ours[name].kind == parameter.kind, name
        assert parameter.kind is parameter.KEYWORD_ONLY or list(ours)[place] == name


def test_is_a_dataloader_that_can_be_looked_into(share: Share) -> None:
    """Lightning reads attributes by the names of arguments, and leaves its sampler alone."""
    dataset = dataset_of(share, None, "none")
    loader = StorageDataLoader(dataset, 4, True, num_workers=2, prefetch_factor=3, seed=5, drop_last=True)  # noqa: FBT003
    assert isinstance(loader, DataLoader)
    assert isinstance(loader.sampler, DistributedSampler)
    batches: Any = loader.batch_sampler
    assert isinstance(batches.sampler, DistributedSampler)
    for name in inspect.signature(StorageDataLoader).parameters:
        assert name in {"shuffle", "options"} or hasattr(loader, name), name
    assert (loader.batch_size, loader.prefetch_factor, loader.drop_last, loader.seed) == (4, 3, True, 5)
    assert (loader.look_ahead_bytes, len(loader)) == (None, NUMBER // 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_gives_what_a_plain_loader_gives(share: Share, tmp_path: Path, workers: int) -> None:
    """In order of the indices the batches are equal, collated or single, with and without the last one."""
    dataset = dataset_of(share, tmp_path, decode=as_tensor, target=lambda sample: len(sample.key))
    for options in ({"batch_size": 4}, {"batch_size": 7, "drop_last": True}, {"batch_size": None}):
        ours = list(StorageDataLoader(dataset, num_workers=workers, **options))
        plain = list(DataLoader(dataset, **options))
        assert len(ours) == len(plain) == len(StorageDataLoader(dataset, **options))
        for (x, y), (plain_x, plain_y) in zip(ours, plain, strict=True):
            assert torch.equal(x, plain_x)
            assert torch.equal(torch.as_tensor(y), torch.as_tensor(plain_y))


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_workers_may_be_started_in_every_way(share: Share, tmp_path: Path, start: str) -> None:
    """Under fork, spawn and forkserver an epoch gives every sample once."""
    dataset = dataset_of(share, tmp_path, decode=only_key)
    with nothing_left_running() if start == "fork" else open(os.devnull):
        loader = loader_of(dataset, 2, multiprocessing_context=start)
        assert sorted(flat(list(loader))) == sorted(FILES)
        assert len(share.requests("GET")) == NUMBER


def test_init_function_sees_the_dataset_of_the_user(share: Share, tmp_path: Path) -> None:
    """``get_worker_info().dataset`` is the user's dataset, as in a plain DataLoader."""
    dataset = dataset_of(share, tmp_path, decode=only_key)

    def init(worker: int) -> None:
        info: Any = get_worker_info()
        info.dataset.transform = f"worker {worker}: {{}}".format

    batches = list(loader_of(dataset, 2, shuffle=False, worker_init_fn=init))
    assert batches[0][0] == "worker 0: 00.bin"
    assert batches[1][0] == "worker 1: 04.bin"


def test_epochs_follow_each_other(share: Share, tmp_path: Path) -> None:
    """Each pass is through the next epoch, also after one that was left early; ``set_epoch`` goes anywhere."""
    dataset = dataset_of(share, tmp_path, decode=only_key)
    loader = loader_of(dataset)
    epochs = [list(loader) for _ in range(3)]
    assert len({tuple(flat(epoch)) for epoch in epochs}) == 3
    again = loader_of(dataset)
    taken(again, 2)
    assert list(again) == epochs[1]
    again.set_epoch(0)
    assert list(again) == epochs[0]
    again.sampler.set_epoch(2)  # type: ignore[attr-defined]  # as Lightning does
    assert list(again) == epochs[2]
    again.set_epoch(1)
    assert taken(again, 2) == epochs[1][:2]
    again.set_epoch(1)
    assert list(again) == epochs[1]
    in_order = loader_of(dataset, shuffle=False)
    assert flat(list(in_order)) == flat(list(in_order)) == dataset.keys


def nested(dataset: Any, kind: str) -> Any:
    """A dataset of all samples, in one of several wrappings."""
    head, tail = Subset(dataset, range(10)), Subset(dataset, range(10, NUMBER))
    return {
        "plain": dataset,
        "subset": Subset(dataset, range(NUMBER)),
        "split": ConcatDataset(random_split(dataset, [12, NUMBER - 12])),
        "nested": ConcatDataset([Subset(ConcatDataset([head]), range(10)), Subset(tail, range(NUMBER - 10))]),
    }[kind]


@pytest.mark.parametrize("kind", ["plain", "subset", "split", "nested"])
@pytest.mark.parametrize("workers", [0, 2])
def test_nested_datasets_are_read_and_looked_ahead_in(share: Share, tmp_path: Path, kind: str, workers: int) -> None:
    """Each sample once, each file once over the network, in the order of the sampler."""
    dataset = nested(dataset_of(share, tmp_path, decode=only_key), kind)
    loader = loader_of(dataset, workers)
    order = loader.sampler.order(0)  # type: ignore[attr-defined]
    assert flat(list(loader)) == [dataset[index] for index in order]
    assert len(share.requests("GET")) == NUMBER
    assert loader.stats()["bytes_from_network"] == sum(map(len, FILES.values()))
    if workers == 0:
        assert loader.stats()["look_ahead_files"] > 0


def test_foreign_dataset_is_read_without_look_ahead() -> None:
    """A dataset that is none of ours gets no look-ahead, but is seeded, ordered and resumed."""
    dataset = TensorDataset(torch.arange(20))
    loader = StorageDataLoader(dataset, batch_size=4, shuffle=True)
    begun = taken(loader, 2)
    assert look_ahead_threads() == []
    resumed = StorageDataLoader(dataset, batch_size=4, shuffle=True)
    resumed.load_state_dict(loader.state_dict())
    numbers = [int(number) for (batch,) in [*begun, *resumed] for number in batch]
    assert numbers == resumed.sampler.order(0)  # type: ignore[attr-defined]


def test_wrapper_of_the_user_is_read_as_it_is(share: Share, tmp_path: Path) -> None:
    """A dataset that wraps ours with code of its own gives what that code makes, and is looked ahead in."""

    class Shouting(Dataset[str]):
        def __init__(self, dataset: Any) -> None:
            self.dataset = dataset

        def __len__(self) -> int:
            return len(self.dataset)

        def __getitem__(self, index: int) -> str:
            return str(self.dataset[index]).upper()

    class ShoutingPart(Subset[str]):
        def __getitem__(self, index: Any) -> str:
            return str(self.dataset[self.indices[index]]).upper()

        def __getitems__(self, indices: list[int]) -> list[str]:
            return [self[index] for index in indices]

    for number, wrap in enumerate((Shouting, lambda dataset: ShoutingPart(dataset, range(NUMBER)))):
        dataset = dataset_of(share, tmp_path / f"{number}", decode=only_key)
        share.server.forget()
        loader = loader_of(wrap(dataset))  # type: ignore[no-untyped-call]
        assert sorted(flat(list(loader))) == sorted(key.upper() for key in FILES)
        assert loader.stats()["look_ahead_files"] > 0
        assert len(share.requests("GET")) == NUMBER


def test_iterable_dataset_is_refused() -> None:
    """An iterable dataset is refused, since its order is not known."""

    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    with pytest.raises(TypeError, match="no order to look ahead along"):
        StorageDataLoader(Stream())


@pytest.mark.parametrize("workers", [0, 2])
def test_error_comes_at_its_own_place_with_its_key(share: Share, tmp_path: Path, workers: int) -> None:
    """Batches before it are whole; iteration can continue after it, and a state taken at it tries the batch again."""
    dataset = dataset_of(share, tmp_path, decode=only_key)
    share.remove("09.bin")
    with nothing_left_running():
        loader = loader_of(dataset, workers, shuffle=False)
        coming = iter(loader)
        assert flat([next(coming), next(coming)]) == dataset.keys[:8]
        with pytest.raises(SampleError) as caught:
            next(coming)
        assert (caught.value.key, caught.value.index, caught.value.location) == ("09.bin", 9, share.location)
        assert loader.state_dict()["done"] == 8
        if workers == 0:
            assert isinstance(caught.value.__cause__, NotFoundError)
        assert flat(list(coming)) == dataset.keys[12:]
        del caught


def test_skipped_samples_are_left_out_of_their_batches(share: Share, tmp_path: Path) -> None:
    """Bad samples are left out of their batches, in a concatenation of datasets too."""
    dataset = dataset_of(share, tmp_path, decode=only_key, on_error="skip")
    share.remove("01.bin", "20.bin")
    whole: Any = ConcatDataset([Subset(dataset, range(10)), Subset(dataset, range(10, NUMBER))])
    batches = list(loader_of(whole, shuffle=False))
    assert batches[0] == ["00.bin", "02.bin", "03.bin"]
    assert flat(batches) == [key for key in dataset.keys if key not in {"01.bin", "20.bin"}]


@pytest.mark.parametrize("workers", [0, 2])
def test_epoch_may_be_left_early(share: Share, tmp_path: Path, workers: int) -> None:
    """After a ``break``, an error of the caller, or a dropped iterator nothing runs on."""
    dataset = dataset_of(share, tmp_path, decode=slowly)
    with nothing_left_running():
        loader = loader_of(dataset, workers)
        for _ in loader:
            break
    with nothing_left_running():
        coming = iter(loader)
        next(coming)
        del coming
    with nothing_left_running(), pytest.raises(ZeroDivisionError):
        [1 / 0 for _ in loader_of(dataset, workers)]  # the caller fails


def test_killed_worker_is_an_error_and_no_hang(share: Share, tmp_path: Path) -> None:
    """The caller gets an error, the other workers end, and a new pass resumes at the caller's position."""
    dataset = dataset_of(share, tmp_path, decode=slowly)
    wanted = flat(list(loader_of(dataset)))
    loader = loader_of(dataset, 2)
    before = children()
    with nothing_left_running():
        coming = iter(loader)
        seen = next(coming)
        os.kill(min(children() - before), signal.SIGKILL)
        with pytest.raises(RuntimeError, match=r"exited unexpectedly|killed by signal"):
            seen.extend(key for batch in coming for key in batch)
        state = loader.state_dict()
        coming._parts.batches._shutdown_workers()  # torch waits for the collector, which pytest's own frames hold up
        del coming
    resumed = loader_of(dataset, 2)
    resumed.load_state_dict(state)
    assert seen + flat(list(resumed)) == wanted


OWNER = """
import sys, time, torch
from tests.support.epochs import as_list, children
from ai4os_data import StorageDataLoader, StorageDataset, Remote, DiskCache

def decode(sample):
    return sample.key

cache = DiskCache(sys.argv[5], "64MiB")
dataset = StorageDataset(sys.argv[1], remote=Remote(*sys.argv[2:5]), decode=decode, cache=cache)
loader = StorageDataLoader(dataset, batch_size=2, num_workers=2, collate_fn=as_list)
for number, _ in enumerate(loader):
    if number == 1:
        print(*children(), flush=True)
        {then}
"""


def owner_of_a_loader(share: Share, directory: Path, then: str) -> subprocess.Popen[str]:
    """Start a process that reads two batches with two workers, names these, and then does something."""
    dataset_of(share, None, "none")
    script = directory / "owner.py"
    script.write_text(textwrap.dedent(OWNER).format(then=then))
    remote = share.server
    return subprocess.Popen(
        [sys.executable, str(script), share.location, remote.url, remote.user, remote.password, str(directory / "c")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_killed_owner_leaves_nothing_running(share: Share, tmp_path: Path) -> None:
    """After a kill of the owner its workers end by themselves, and the cache is whole."""
    with owner_of_a_loader(share, tmp_path, "time.sleep(60)") as process:
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        process.kill()
        process.wait(10)
        until = time.monotonic() + 20
        while any(map(is_running, workers)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(map(is_running, workers))
    dataset = dataset_of(share, tmp_path / "c", decode=only_key)
    assert sorted(flat(list(loader_of(dataset)))) == sorted(FILES)
    assert dataset.reader.files.cache is not None
    assert dataset.reader.files.cache.verify()["damaged"] == 0


def test_process_that_ends_in_mid_epoch_ends(share: Share, tmp_path: Path) -> None:
    """Its exit code is 0 and it prints nothing, although workers and look-ahead were at work."""
    with owner_of_a_loader(share, tmp_path, "sys.exit(0)") as process:
        assert process.wait(30) == 0


def test_stats_and_one_line_an_epoch(share: Share, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets figures, and the log one line: images a second, hit rate, megabytes, waiting."""
    loader = loader_of(dataset_of(share, tmp_path, decode=only_key))
    assert loader.stats() == {}
    with caplog.at_level(logging.INFO, "ai4os_data"):
        list(loader)
        cold = loader.stats()
        list(loader)
        warm = loader.stats()
    total = sum(map(len, FILES.values()))
    assert (cold["epoch"], cold["images"], cold["hit_rate"], cold["bytes_from_network"]) == (0, NUMBER, 0.0, total)
    assert (warm["epoch"], warm["images"], warm["hit_rate"], warm["bytes_from_network"]) == (1, NUMBER, 1.0, 0)
    assert cold["images_per_s"] == pytest.approx(NUMBER / cold["seconds"])
    assert 0 <= warm["waiting_share"] <= 1
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("epoch")]
    assert len(lines) == 2
    assert lines[0].startswith(f"epoch 0: {NUMBER} images, ")
    assert "hit rate 0.0 %, 0.0 MB from the network, first batch after " in lines[0]
    assert "hit rate 100.0 %" in lines[1]


def test_pickled_loader_begins_where_it_was(share: Share, tmp_path: Path) -> None:
    """A loader that is pickled, as by Lightning's spawning strategies, resumes where it was."""
    loader = loader_of(dataset_of(share, tmp_path, decode=only_key))
    begun = taken(loader, 2)
    copy = pickle.loads(pickle.dumps(loader))  # noqa: S301  it was made here
    copy.load_state_dict(loader.state_dict())
    whole = loader_of(dataset_of(share, tmp_path, decode=only_key))
    assert begun + list(copy) == list(whole)


def test_two_loaders_side_by_side(share: Share, tmp_path: Path) -> None:
    """Training and validation over parts of one dataset share one cache, and read in turns."""
    train, valid = random_split(dataset_of(share, tmp_path, decode=only_key), [20, 10])
    one, other = loader_of(train, 2), loader_of(valid, 0, shuffle=False)
    seen: list[str] = []
    for batch in one:
        seen += batch
        if len(seen) == 8:
            assert flat(list(other)) == [valid[index] for index in range(10)]
    assert sorted(seen) == sorted(train[index] for index in range(20))
    assert len(share.requests("GET")) == NUMBER


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata calls it
def test_dataset_alone_works_in_a_stateful_dataloader(share: Share, tmp_path: Path) -> None:
    """Torchdata's loader saves and resumes over it, with workers and without."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")
    dataset = dataset_of(share, tmp_path, decode=only_key)
    for workers in (0, 2):
        options = {"batch_size": 4, "num_workers": workers, "collate_fn": as_list}
        loader = stateful.StatefulDataLoader(dataset, **options)
        coming = iter(loader)
        begun = [next(coming), next(coming)]
        state = loader.state_dict()
        rest = list(coming)
        resumed = stateful.StatefulDataLoader(dataset, **options)
        resumed.load_state_dict(state)
        assert list(resumed) == rest
        assert flat(begun + rest) == dataset.keys


def test_own_random_numbers_do_not_move_the_order(share: Share, tmp_path: Path) -> None:
    """The order does not depend on what the caller draws from the global generators."""
    dataset = dataset_of(share, tmp_path, decode=only_key)
    one = list(loader_of(dataset))
    torch.manual_seed(99)
    random.seed(99)
    assert list(loader_of(dataset)) == one
