"""Code that knows a DataLoader by its parts finds them in ours: type, copies, pickles, workers, attributes."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils import pin_memory

from ai4os_data import Sample, StorageDataLoader, StorageDataset
from ai4os_data.errors import SampleError
from ai4os_data.loader.batches import Failed, LeftOut, Made
from tests.support.epochs import NUMBER, children, dataset_of, flat, loader_of, nothing_left_running, only_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.shares import Share

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


class Numbers(Dataset[int]):
    """The numbers up to eight."""

    def __len__(self) -> int:
        """Eight."""
        return 8

    def __getitem__(self, index: int) -> int:
        """The number itself."""
        return index


def test_it_is_generic() -> None:
    """``StorageDataLoader[Tensor]`` says what a dataset holds, as ``DataLoader[Tensor]`` does; it may be left out."""
    loader: StorageDataLoader[int] = StorageDataLoader(Numbers(), batch_size=4)
    without: StorageDataLoader = loader
    assert StorageDataLoader[torch.Tensor].__origin__ is StorageDataLoader  # type: ignore[attr-defined]
    assert [batch.tolist() for batch in without] == [[0, 1, 2, 3], [4, 5, 6, 7]]

    class Mine(StorageDataLoader[int]):
        pass

    assert isinstance(Mine(Numbers()), DataLoader)


# --- pickles and copies


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("send", [lambda coming: pickle.loads(pickle.dumps(coming)), copy.copy, copy.deepcopy])  # noqa: S301
def test_the_copy_of_a_pass_says_that_it_is_none(send: Callable[[Any], Any], workers: int) -> None:
    """It can be pickled with the object that holds it, and the pass itself continues."""
    coming = iter(StorageDataLoader(Numbers(), batch_size=2, num_workers=workers))
    next(coming)
    copied = send({"pass": coming})["pass"]
    if copied is not coming:  # a shallow copy of the dictionary
        with pytest.raises(RuntimeError, match="iterate over the loader"):
            next(iter(copied))
    assert [batch.tolist() for batch in coming] == [[2, 3], [4, 5], [6, 7]]


@pytest.mark.filterwarnings("ignore")  # of Lightning's own
def test_a_combined_loader_of_lightning_pickles() -> None:
    """A CombinedLoader over ours pickles during a pass, as one over a DataLoader does."""
    utilities = pytest.importorskip("lightning.pytorch.utilities", reason="lightning is not installed")
    for kind in (DataLoader, StorageDataLoader):
        combined = utilities.CombinedLoader([kind(Numbers()), [0, 1, 2]])
        iter(combined)
        next(combined)
        again = pickle.loads(pickle.dumps(combined))  # noqa: S301
        assert len(list(again)) == 3


def test_a_copied_loader_has_workers_and_passes_of_its_own() -> None:
    """The copy of a loader shares the sampler, as the copy of a DataLoader does."""
    with nothing_left_running():
        loader = StorageDataLoader(Numbers(), batch_size=4, num_workers=1, persistent_workers=True)
        coming = iter(loader)
        first = next(coming).tolist()
        copied = copy.copy(loader)
        assert copied.sampler is loader.sampler
        assert [batch.tolist() for batch in copied] == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert [first, *[batch.tolist() for batch in coming]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
        del loader, coming, copied


# --- what may be changed


@pytest.mark.parametrize(
    "name", ["batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers"]
)
def test_what_a_dataloader_refuses_to_change_is_refused(name: str) -> None:
    """The error is the same as that of a DataLoader."""
    told = []
    for kind in (DataLoader, StorageDataLoader):
        with pytest.raises(ValueError, match=name) as caught:
            setattr(kind(Numbers()), name, None)
        told.append(str(caught.value).replace("StorageDataLoader", "DataLoader"))
    assert told[0] == told[1]


def test_what_may_be_changed_holds_from_the_next_pass_on() -> None:
    """Number of workers, how they are started, what puts batches together, how long to wait."""
    loader = StorageDataLoader(Numbers(), batch_size=4)
    assert [batch.tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    loader.num_workers = 1
    loader.prefetch_factor = 2
    loader.collate_fn = sum
    loader.timeout = 60
    loader.multiprocessing_context = "forkserver"
    assert isinstance(loader.multiprocessing_context, multiprocessing.context.ForkServerContext)
    assert list(loader) == [6, 22]
    with pytest.raises(ValueError, match="multiprocessing_context option should specify a valid start method"):
        loader.multiprocessing_context = "nothing"


def test_parts_are_those_of_a_dataloader() -> None:
    """Length, batch sampler, sampler, and the batches that the batch sampler gives."""
    loader = StorageDataLoader(Numbers(), batch_size=3)
    plain = DataLoader(Numbers(), batch_size=3)
    ours: Any = loader.batch_sampler
    theirs: Any = plain.batch_sampler
    assert len(loader) == len(plain) == len(ours) == 3
    assert list(ours) == list(theirs)
    assert isinstance(ours, type(theirs))
    assert (ours.sampler, ours.batch_size, ours.drop_last) == (loader.sampler, 3, False)
    assert {name for name in vars(plain) if not name.startswith("_")} <= set(vars(loader))
    assert loader._iterator is plain._iterator is None


# --- persistent workers


def test_persistent_workers_end_where_those_of_a_dataloader_do() -> None:
    """Other code ends them through ``_iterator``; a new pass starts new ones."""
    loader = StorageDataLoader(Numbers(), batch_size=4, num_workers=2, persistent_workers=True)
    before = children()
    for _ in range(2):
        assert len(list(loader)) == 2
        iterator: Any = loader._iterator
        assert len(children() - before) == 2
        iterator._shutdown_workers()
        loader._iterator = None
        assert children() - before == set()


@pytest.mark.filterwarnings("ignore")  # of Lightning's own, about workers and loggers
def test_persistent_workers_end_with_the_fit_of_lightning(tmp_path: Path) -> None:
    """Training and validation; a second fit with the same loaders works."""
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")
    demos = pytest.importorskip("lightning.pytorch.demos.boring_classes")
    before = children()
    loaders = [StorageDataLoader(demos.RandomDataset(32, 8), num_workers=1, persistent_workers=True) for _ in range(2)]
    for _ in range(2):
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(demos.BoringModel(), *loaders)
        assert trainer.global_step == 16
        until = time.monotonic() + 10
        while children() - before and time.monotonic() < until:
            time.sleep(0.05)
        assert children() - before == set()


# --- bad batches


def bad_at_five(sample: Sample) -> str:
    """Return a key, but for the fifth."""
    if sample.key.startswith("05"):
        raise OSError("torn")
    return only_key(sample)


@pytest.mark.parametrize("options", [{"timeout": 60}, {"pin_memory": True}, {"in_order": False}])
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
def test_a_bad_batch_comes_as_its_error_under_every_option(share: Share, tmp_path: Path, options: Any) -> None:
    """The batches before and after it are complete, and the error names the key."""
    dataset = dataset_of(share, tmp_path, "warm", decode=bad_at_five)
    loader = loader_of(dataset, 2, shuffle=False, **options)
    coming = iter(loader)
    seen: list[Any] = []
    errors: list[SampleError] = []
    while True:
        try:
            seen.append(next(coming))
        except StopIteration:
            break
        except SampleError as error:
            errors.append(error)
    assert [error.key for error in errors] == ["05.bin"]
    assert sorted(flat(seen)) == [key for key in dataset.keys if not 4 <= int(key[:2]) < 8]


def test_what_is_pinned_stays_what_it_is() -> None:
    """A bad batch is one, with its error; of a good one the tensors are pinned, and nothing else is touched."""

    class Pinned:
        def pin_memory(self) -> str:
            return "pinned"

    pin: Any = pin_memory.pin_memory
    error = SampleError("torn", key="a.bin")
    for kind in (Failed, LeftOut):
        pinned = pin(kind(7, error, "trace"))
        assert (type(pinned), pinned.number, pinned.error) == (kind, 7, error)
    pinned = pin(Made(7, {"x": [Pinned()], "y": "text"}, (1, 2)))
    assert (type(pinned), pinned.number, pinned.data) == (Made, 7, {"x": ["pinned"], "y": "text"})
    assert list(pinned.spent) == [1, 2]  # in some versions a tuple comes as a list


class Slow(Numbers):
    """The numbers, the third after a long while."""

    def __getitem__(self, index: int) -> int:
        """The number itself."""
        if index == 2:
            time.sleep(30)
        return index


def test_a_worker_that_takes_too_long_is_an_error() -> None:
    """The error is DataLoader's, and the batches before it count."""
    loader = StorageDataLoader(Slow(), num_workers=1, timeout=1)
    coming = iter(loader)
    assert [next(coming).tolist(), next(coming).tolist()] == [[0], [1]]
    with pytest.raises(RuntimeError, match="timed out after 1 seconds"):
        next(coming)
    assert loader.state_dict()["done"] == 2


# --- random numbers


class Drawn(Dataset[Any]):
    """What a worker draws, of the global generators and of one of its own."""

    own: Any = None

    def __len__(self) -> int:
        """Eight."""
        return 8

    def __getitem__(self, index: int) -> tuple[float, float, float, float]:
        """Draw."""
        own = self.own.random() if self.own is not None else 0.0
        return random.random(), float(np.random.random()), float(torch.rand(())), own  # noqa: NPY002


def seed_worker(worker: int) -> None:
    """Seed as PyTorch's notes on reproducibility do, and a generator of the dataset's own."""
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    info = get_worker_info()
    assert info is not None
    assert info.id == worker
    dataset: Any = info.dataset
    dataset.own = np.random.default_rng(seed)


def drawn(loader: Any) -> tuple[list[Any], list[Any]]:
    """Return what the global generators gave in an epoch, and what the dataset's own did."""
    batches = [sample for batch in loader for sample in batch]
    return [sample[:3] for sample in batches], [sample[3] for sample in batches]


def test_a_function_that_seeds_workers_reaches_generators_of_their_own(recwarn: pytest.WarningsRecorder) -> None:
    """What the global ones give follows from seed, epoch and index, with the function or without it."""

    def epochs(**options: Any) -> list[tuple[list[Any], list[Any]]]:
        loader = StorageDataLoader(Drawn(), batch_size=4, num_workers=2, collate_fn=list, **options)
        return [drawn(loader), drawn(loader)]

    without, seeded, again = epochs(), epochs(worker_init_fn=seed_worker), epochs(worker_init_fn=seed_worker)
    assert [of_globals for of_globals, _ in without] == [of_globals for of_globals, _ in seeded]
    assert [own for _, own in without] == [[0.0] * 8] * 2
    assert seeded == again
    assert len({number for _, own in seeded for number in own}) == 16  # another in each worker and epoch
    moved = epochs(worker_init_fn=seed_worker, generator=torch.Generator().manual_seed(1))
    assert [of_globals for of_globals, _ in moved] == [of_globals for of_globals, _ in seeded]
    assert [own for _, own in moved] != [own for _, own in seeded]
    assert len(recwarn) == 0


def test_a_generator_seeds_workers_and_does_not_move_the_order() -> None:
    """``generator`` seeds the workers; the order follows from ``seed``."""

    def order(**options: Any) -> list[Any]:
        return [batch.tolist() for batch in StorageDataLoader(Numbers(), batch_size=4, shuffle=True, **options)]

    assert order(generator=torch.Generator().manual_seed(1)) == order(generator=torch.Generator().manual_seed(2))
    assert order(seed=1) != order(seed=2)


def test_all_of_a_storage_comes(share: Share, tmp_path: Path) -> None:
    """As a plain check of the parts together: typed, with persistent workers that were ended in between."""
    dataset: StorageDataset = dataset_of(share, tmp_path, decode=only_key)
    loader: StorageDataLoader[str] = loader_of(dataset, 2, persistent_workers=True)
    with nothing_left_running():
        for _ in range(2):
            assert len(flat(list(loader))) == NUMBER
            iterator: Any = loader._iterator
            iterator._shutdown_workers()
            loader._iterator = None
