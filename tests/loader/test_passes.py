"""Passes over a loader do not disturb each other, as with a DataLoader; the state is that of the current one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, DistributedSampler, RandomSampler, Sampler, Subset

from ai4os_data import StorageDataLoader, StorageDataset
from tests.support.epochs import FILES, NUMBER, dataset_of, flat, loader_of, nothing_left_running, only_key, taken

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.shares import Share

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

BATCHES = -(-NUMBER // 4)
EMPTY_STATES: list[Any] = [{}, None, [], {"epoch": 1}]


def options_of(kind: str) -> dict[str, Any]:
    """Options for our own order, or for another library's."""
    return {} if kind == "own" else {"shuffle": None, "sampler": RandomSampler(range(NUMBER))}


# --- one inside another


@pytest.mark.parametrize("kind", ["own", "foreign"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_look_into_a_loader_does_not_end_its_pass(share: Share, tmp_path: Path, workers: int, kind: str) -> None:
    """``next(iter(loader))`` in mid-epoch changes neither the rest of the epoch, nor the state, nor the next epoch."""
    dataset = dataset_of(share, tmp_path, "warm")
    undisturbed = loader_of(dataset, workers, **options_of(kind))
    wanted = [list(undisturbed), list(undisturbed)]
    loader = loader_of(dataset, workers, **options_of(kind))
    with nothing_left_running():
        for epoch in range(2):
            seen = []
            for batch in loader:
                seen.append(batch)
                before = loader.state_dict()
                assert next(iter(loader)) != batch
                assert loader.state_dict() == before
                assert loader.epoch == epoch
                assert loader.stats()["epoch"] in {epoch, epoch + 1}
            assert seen == wanted[epoch]
            assert loader.stats()["epoch"] == epoch


@pytest.mark.parametrize("kind", ["own", "foreign"])
def test_a_whole_pass_may_be_made_inside_another(share: Share, tmp_path: Path, kind: str) -> None:
    """One loader may serve training and validation; the outer pass continues and can be resumed."""
    dataset = dataset_of(share, tmp_path, "warm")
    undisturbed = loader_of(dataset, **options_of(kind))
    wanted = [list(undisturbed), list(undisturbed)]
    loader = loader_of(dataset, **options_of(kind))
    outer = iter(loader)
    seen = [next(outer), next(outer)]
    assert list(loader) == wanted[1]
    seen.append(next(outer))
    resumed = loader_of(dataset, **options_of(kind))
    resumed.load_state_dict(loader.state_dict())
    assert seen + list(resumed) == wanted[0]
    assert seen + list(outer) == wanted[0]
    assert list(loader) == wanted[1]


def test_two_passes_side_by_side(share: Share, tmp_path: Path) -> None:
    """Two passes at the same time go through an epoch each."""
    dataset = dataset_of(share, tmp_path, "warm")
    loader = loader_of(dataset)
    wanted = list(zip(loader_of(dataset), list(loader_of(dataset)), strict=True))
    pairs = list(zip(loader, loader, strict=True))
    assert [one for one, _ in pairs] == [one for one, _ in wanted]
    assert sorted(flat([other for _, other in pairs])) != sorted(flat([one for one, _ in pairs]))


def test_a_pass_that_is_held_and_forgotten_holds_nothing_up(share: Share, tmp_path: Path) -> None:
    """An iterator kept from a first look delays no epoch and no resume."""
    dataset = dataset_of(share, tmp_path, "warm")
    undisturbed = loader_of(dataset)
    wanted = [list(undisturbed) for _ in range(4)]
    loader = loader_of(dataset)
    held = iter(loader)
    next(held)
    assert [list(loader), list(loader)] == wanted[1:3]
    begun = taken(loader, 3)
    resumed = loader_of(dataset)
    resumed.load_state_dict(loader.state_dict())
    assert begun + list(resumed) == wanted[3]


def test_persistent_workers_make_one_pass_at_a_time(share: Share, tmp_path: Path) -> None:
    """The earlier pass says that it was ended; it does not look like a short epoch."""
    dataset = dataset_of(share, tmp_path, "warm")
    loader = loader_of(dataset, 1, persistent_workers=True)
    outer = iter(loader)
    next(outer)
    assert len(list(loader)) == BATCHES
    with pytest.raises(RuntimeError, match=r"ended by another one.*persistent_workers"):
        next(outer)
    del loader, outer


def test_an_epoch_that_is_set_in_the_midst_of_a_pass_is_the_next(share: Share, tmp_path: Path) -> None:
    """The current pass stays in its epoch."""
    dataset = dataset_of(share, tmp_path, "warm")
    undisturbed = loader_of(dataset)
    wanted = [list(undisturbed) for _ in range(6)]
    for through_sampler in (False, True):
        loader = loader_of(dataset)
        outer = iter(loader)
        seen = [next(outer)]
        told: Any = loader.sampler if through_sampler else loader
        told.set_epoch(5)
        seen.append(next(outer))
        resumed = loader_of(dataset)
        resumed.load_state_dict(loader.state_dict())
        assert seen + list(resumed) == wanted[0]
        assert seen + list(outer) == wanted[0]
        assert list(loader) == wanted[5]


def test_a_pass_knows_how_long_it_is(share: Share, tmp_path: Path) -> None:
    """As in a DataLoader; after a resume it is as long as the rest, and without an end it has no length."""

    class Endless(Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            while True:
                yield 1

    dataset = dataset_of(share, tmp_path, "warm")
    loader = loader_of(dataset)
    coming = iter(loader)
    assert len(coming) == len(iter(DataLoader(dataset, 4))) == BATCHES
    next(coming)
    assert len(coming) == BATCHES
    resumed = loader_of(dataset)
    resumed.load_state_dict(loader.state_dict())
    assert len(iter(resumed)) == BATCHES - 1
    with pytest.raises(TypeError):
        len(iter(loader_of(dataset, shuffle=None, sampler=Endless())))


# --- the epoch of a sampler


def test_epoch_that_the_user_tells_a_sampler_is_gone_through(share: Share, tmp_path: Path) -> None:
    """It counts after a pass that was left early, and if it is the same one again, as in a DataLoader."""
    dataset = dataset_of(share, tmp_path, "warm", decode=only_key)

    def heads(kind: Any, **options: Any) -> list[list[str]]:
        sampler: Any = DistributedSampler(range(NUMBER), 1, 0)  # type: ignore[arg-type]  # its length alone counts
        loader = kind(dataset, 4, sampler=sampler, collate_fn=list, **options)
        found = []
        for epoch in (5, 6, 6, 0, 5):
            sampler.set_epoch(epoch)
            found.append(taken(loader, 1)[0])
        return found

    assert heads(StorageDataLoader) == heads(DataLoader)


def test_epochs_of_a_sampler_that_nobody_sets_follow_each_other(share: Share, tmp_path: Path) -> None:
    """Epochs count from the one that the sampler stood at before."""
    dataset = dataset_of(share, tmp_path, "warm", decode=only_key)
    sampler: Any = DistributedSampler(range(NUMBER), 1, 0)  # type: ignore[arg-type]  # its length alone counts
    sampler.set_epoch(3)
    loader = StorageDataLoader(dataset, 4, sampler=sampler, collate_fn=list)
    assert loader.epoch == 3
    assert list(loader) != list(loader)
    assert loader.epoch == 5
    torch.save(loader.state_dict(), tmp_path / "state")
    assert torch.load(tmp_path / "state", weights_only=True)["epoch"] == 5


# --- a state is of certain samples


@pytest.mark.parametrize("state", EMPTY_STATES)
@pytest.mark.parametrize("kind", ["own", "foreign"])
def test_what_is_no_state_is_refused(share: Share, tmp_path: Path, kind: str, state: Any) -> None:
    """The error says that it is no state, and the loader stays as it was."""
    loader = loader_of(dataset_of(share, tmp_path, "warm"), **options_of(kind))
    with pytest.raises(ValueError, match="cannot resume"):
        loader.load_state_dict(state)
    assert len(list(loader)) == BATCHES
    if kind == "own":
        with pytest.raises(ValueError, match="cannot resume"):
            loader.sampler.load_state_dict(state)  # type: ignore[attr-defined]


def test_state_of_other_files_is_refused(share: Share, caplog: pytest.LogCaptureFixture) -> None:
    """Other files of the same number are refused; a state of an older version, without names, is loaded."""
    dataset = dataset_of(share, None, "none", decode=only_key)
    loader = loader_of(Subset(dataset, range(20)))
    begun = taken(loader, 2)
    state = loader.state_dict()
    with pytest.raises(ValueError, match="the samples are not those that the state was saved with"):
        loader_of(Subset(dataset, range(1, 21))).load_state_dict(state)
    share.put({"00.bin": b"another version"})
    again = loader_of(Subset(dataset_of(share, None, "none", decode=lambda sample: sample.key), range(20)))
    again.load_state_dict(state)
    assert "files have changed since the state was saved" in caplog.text
    assert sorted(flat(begun + list(again))) == dataset.keys[:20]
    share.put({"000.bin": b"new"})
    share.remove("01.bin")
    others = loader_of(Subset(dataset_of(share, None, "none", decode=lambda sample: sample.key), range(20)))
    with pytest.raises(ValueError, match="have come or gone"):
        others.load_state_dict(state)
    others.load_state_dict({name: value for name, value in state.items() if name not in {"samples", "versions"}})
    assert len(flat(list(others))) == 12


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"look_ahead_bytes": -5}, ValueError),
        ({"look_ahead_bytes": "much"}, ValueError),
        ({"look_ahead_bytes": 1.5}, ValueError),
        ({"seed": "x"}, TypeError),
        ({"seed": None}, TypeError),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(
    share: Share, tmp_path: Path, options: dict[str, Any], kind: type[Exception]
) -> None:
    """The constructor raises, and names the argument."""
    dataset = dataset_of(share, tmp_path)
    with pytest.raises(kind, match=f"{next(iter(options))} is a .* not "):
        loader_of(dataset, **options)
    assert loader_of(dataset, look_ahead_bytes="1GiB")._look_aheads.staged_bytes == 1024**3


def test_augmentations_do_not_depend_on_the_type_of_an_index(share: Share) -> None:
    """A sampler may give numbers, tensors or numbers of NumPy."""
    dataset = dataset_of(share, None, "none")
    numbers = [3, 1, 2]
    one = list(loader_of(dataset, shuffle=None, sampler=numbers))
    assert list(loader_of(dataset, shuffle=None, sampler=torch.tensor(numbers))) == one
    assert list(loader_of(dataset, shuffle=None, sampler=torch.tensor(numbers).numpy())) == one


# --- what is counted


class Held(Dataset[Any]):
    """A wrapper that holds our dataset under another name."""

    def __init__(self, ours: Any) -> None:
        self.ours = ours

    def __len__(self) -> int:
        """As many."""
        return len(self.ours)

    def __getitem__(self, index: int) -> Any:
        """Ours."""
        return self.ours[index]


class Unseen(Held):
    """A wrapper whose dataset cannot be seen."""

    def __init__(self, ours: StorageDataset) -> None:
        self.made = lambda: ours

    def __getattr__(self, name: str) -> Any:
        """Make it when it is asked for."""
        if name == "ours":
            return self.made()  # type: ignore[no-untyped-call]  # `made` is found by this very method, for mypy
        raise AttributeError(name)


def test_hit_rate_is_of_files_and_never_invented(share: Share, tmp_path: Path) -> None:
    """It is right under any wrapper; if the dataset cannot be seen, it is NaN."""
    for number, is_nested in enumerate((False, True)):
        held: Any = Held(dataset_of(share, tmp_path / f"{number}", decode=only_key))
        loader = loader_of(ConcatDataset([held]) if is_nested else held)
        rates = [loader.stats()["hit_rate"] for _ in range(2) if list(loader)]
        assert rates == [0.0, 1.0]
    unseen_of: Any = Unseen
    unseen = loader_of(unseen_of(dataset_of(share, tmp_path / "unseen", decode=only_key)))
    assert sorted(flat(list(unseen))) == sorted(FILES)
    assert str(unseen.stats()["hit_rate"]) == "nan"


def test_hit_rate_of_paths(share: Share, tmp_path: Path) -> None:
    """A file that is fetched to be given as a path is no hit."""
    loader = loader_of(dataset_of(share, tmp_path, decode="path"), look_ahead_bytes=0)
    rates = [loader.stats()["hit_rate"] for _ in range(2) if list(loader)]
    assert rates == [0.0, 1.0]


def test_a_part_of_somebody_else_does_not_end_the_look_ahead(share: Share, tmp_path: Path) -> None:
    """The part of a ``ConcatDataset`` that is ours is fetched ahead."""

    class Foreign(Dataset[Any]):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> str:
            return f"{range(5)[index]}"

    def slowly(sample: Any) -> str:
        time.sleep(0.01)
        return only_key(sample)

    parts: list[Any] = [dataset_of(share, tmp_path, decode=slowly), Foreign()]
    loader = loader_of(ConcatDataset(parts))
    assert sorted(flat(list(loader))) == sorted([*FILES, *"01234"])
    assert loader.stats()["look_ahead_files"] > NUMBER // 2
    assert len(share.requests("GET")) == NUMBER
