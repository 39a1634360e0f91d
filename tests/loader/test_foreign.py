"""A state in the order of another library's sampler is resumed exactly, or refused with what differs."""

from __future__ import annotations

import io
import pickle
import random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ai4os_data import StorageDataLoader, StorageDataset, StorageSampler
from tests.support.epochs import as_list, flat, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch.utils.data import Dataset

NUMBER = 42
GIVEN = 5


def loader_of(samples: int = NUMBER, **options: Any) -> StorageDataLoader:
    """A loader over numbers, in batches of four unless a batch sampler makes them."""
    size = {} if "batch_sampler" in options else {"batch_size": 4}
    return StorageDataLoader(range(samples), **{"collate_fn": as_list, **size, **options})  # type: ignore[arg-type]


def through(state: dict[str, Any]) -> dict[str, Any]:
    """A state as it comes back from a checkpoint."""
    torch.save(state, file := io.BytesIO())
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def left(saved: StorageDataLoader, loaded: StorageDataLoader, batches: int = GIVEN) -> tuple[list[Any], list[Any]]:
    """The batches that one loader gave, and those that another one gives after that."""
    seen = taken(saved, batches)
    loaded.load_state_dict(through(saved.state_dict()))
    return flat(seen), list(loaded)


def seeded(seed: int = 7) -> torch.Generator:
    """A generator of the user."""
    return torch.Generator().manual_seed(seed)


def distributed(samples: int = NUMBER, world: int = 1, rank: int = 0, **options: Any) -> DistributedSampler[int]:
    """Torch's sampler for several ranks."""
    dataset: Dataset[int] = range(samples)  # type: ignore[assignment]  # it has a length
    return DistributedSampler(dataset, world, rank, **options)


class Buckets(Sampler[list[int]]):
    """Batches of varying sizes, as for grouping samples of one length."""

    def __init__(self, *sizes: int, samples: int = NUMBER) -> None:
        self.sizes, self.samples = sizes, samples

    def __iter__(self) -> Iterator[list[int]]:
        """Sizes in turn."""
        order, number = torch.randperm(self.samples).tolist(), 0
        while order:
            size = self.sizes[number % len(self.sizes)]
            yield order[:size]
            order, number = order[size:], number + 1

    def __len__(self) -> int:
        """Of the batches."""
        return sum(1 for _ in self)


class Unsized(Sampler[Any]):
    """A sampler without a length, made from a function."""

    def __init__(self, drawn: Callable[[], Iterator[Any]]) -> None:
        self._drawn = drawn

    def __iter__(self) -> Iterator[Any]:
        """From the beginning."""
        return self._drawn()


class Growing(Sampler[int]):
    """A sampler that the user may extend."""

    def __init__(self, samples: int = NUMBER) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[int]:
        """In their order."""
        return iter(range(self.samples))

    def __len__(self) -> int:
        """As many as it has now."""
        return self.samples


class Counting(Sampler[int]):
    """A sampler that gives another order each time, and has no state."""

    passes = 0

    def __iter__(self) -> Iterator[int]:
        """Begin further on."""
        self.passes += 1
        return iter([(index + 7 * self.passes) % NUMBER for index in range(NUMBER)])

    def __len__(self) -> int:
        """All."""
        return NUMBER


class Yielding(Counting):
    """A sampler that saves how many it has given, and keeps that number from one epoch to the next."""

    given = 0
    skipped = 0

    def __iter__(self) -> Iterator[int]:
        """From its position, if one was loaded."""
        self.given, self.skipped = self.skipped, 0
        for number in range(self.given, NUMBER):
            self.given += 1
            yield number * 5 % NUMBER

    def state_dict(self) -> dict[str, int]:
        """As torchdata's samplers do."""
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on there."""
        self.skipped = state["given"]


class OwnDraws(Sampler[int]):
    """A sampler with a generator that nobody else can reach."""

    def __init__(self) -> None:
        self._random = random.Random(1)

    def __iter__(self) -> Iterator[int]:
        """Shuffled."""
        return iter(self._random.sample(range(NUMBER), NUMBER))

    def __len__(self) -> int:
        """All."""
        return NUMBER


def endless(step: int = 1) -> Callable[[], Iterator[int]]:
    """A sampler that gives numbers for ever, from a generator of its own."""

    def drawn() -> Iterator[int]:
        generator = seeded()
        while True:
            yield int(torch.randint(NUMBER, (), generator=generator)) * step % NUMBER

    return drawn


def in_batches(size: int) -> Callable[[], Iterator[list[int]]]:
    """A batch sampler without a length."""
    return lambda: iter(list(BatchSampler(range(NUMBER), size, drop_last=False)))


PLAIN: dict[str, Callable[[], Any]] = {
    "sequential": lambda: SequentialSampler(range(NUMBER)),
    "list": lambda: list(range(NUMBER))[::-1],
    "random": lambda: RandomSampler(range(NUMBER)),
    "replacement": lambda: RandomSampler(range(NUMBER), replacement=True, num_samples=30),
    "generator": lambda: RandomSampler(range(NUMBER), generator=seeded()),
    "subset": lambda: SubsetRandomSampler(range(10, NUMBER)),
    "weighted": lambda: WeightedRandomSampler([1.0 + index for index in range(NUMBER)], 40),
    "distributed": lambda: distributed(world=2, rank=1),
    "without a length": lambda: Unsized(endless()),
}


@pytest.mark.parametrize("kind", [kind for kind in PLAIN if kind != "without a length"])
@pytest.mark.parametrize("sizes", [(4, 5, 1), (4, 2, 2), (3, None, 5), (None, 4, None)])
@pytest.mark.parametrize("is_batch_sampler", [False, True])
def test_another_batch_size_goes_on_sample_by_sample(
    kind: str,
    sizes: tuple[int | None, ...],
    is_batch_sampler: bool,  # noqa: FBT001  a parameter
) -> None:
    """The same order resumes twice in the third epoch, whatever the batches were before."""

    def made(size: int | None) -> StorageDataLoader:
        if is_batch_sampler and size:
            return loader_of(batch_sampler=BatchSampler(PLAIN[kind](), size, drop_last=False))
        return loader_of(sampler=PLAIN[kind](), batch_size=size)

    def as_samples(batches: list[Any]) -> list[Any]:
        return [sample for batch in batches for sample in (batch if isinstance(batch, list) else [batch])]

    whole = made(sizes[0])
    epochs = [as_samples(list(whole)) for _ in range(3)]
    loader = made(sizes[0])
    list(loader), list(loader)
    seen = as_samples(taken(loader, 2))
    for size in sizes[1:]:
        state = through(loader.state_dict())
        loader = made(size)
        loader.load_state_dict(state)
        came = taken(loader, 2)
        assert len(as_samples(came)) == 2 * (size or 1)
        seen += as_samples(came)
    assert seen + as_samples(list(loader_with(made(sizes[-1]), loader.state_dict()))) == epochs[2]


def loader_with(loader: StorageDataLoader, state: dict[str, Any]) -> StorageDataLoader:
    """A loader that has loaded a state."""
    loader.load_state_dict(through(state))
    return loader


def sampler_of_the_same_name() -> Any:
    """A class with the same name as torch's."""

    class RandomSampler(SequentialSampler):
        pass

    return RandomSampler(range(NUMBER))


REFUSED: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "more samples": (PLAIN["random"], lambda: RandomSampler(range(44)), "gave 42 samples .* gives 44 samples"),
    "fewer samples": (PLAIN["sequential"], lambda: SequentialSampler(range(36)), "gave 42 samples .* gives 36"),
    "another kind": (PLAIN["random"], PLAIN["sequential"], "SequentialSampler gives the .* than RandomSampler did"),
    "the same name": (PLAIN["random"], sampler_of_the_same_name, "test_foreign.* than torch.utils.data.sampler"),
    "other weights": (
        PLAIN["weighted"],
        lambda: WeightedRandomSampler([1.0] * NUMBER, 40),
        "WeightedRandomSampler gives the samples in another order",
    ),
    "other indices": (PLAIN["subset"], lambda: SubsetRandomSampler(range(32)), "in another order"),
    "replacement": (
        PLAIN["replacement"],
        lambda: RandomSampler(range(NUMBER), num_samples=30),
        "in another order",
    ),
    "num_samples": (
        PLAIN["replacement"],
        lambda: RandomSampler(range(NUMBER), replacement=True, num_samples=31),
        "gave 30 samples .* gives 31",
    ),
    "no generator any more": (PLAIN["generator"], PLAIN["random"], "in another order"),
    "another seed": (distributed, lambda: distributed(seed=1), "DistributedSampler gives the samples in another order"),
    "shuffled no more": (distributed, lambda: distributed(shuffle=False), "in another order"),
    "more ranks": (distributed, lambda: distributed(world=2), "among 1 ranks when the state was saved, .* among 2 now"),
    "fewer ranks": (lambda: distributed(world=2), distributed, "among 2 ranks when the state was saved, .* among 1"),
    "drop_last of ranks": (
        lambda: distributed(world=4),
        lambda: distributed(world=4, drop_last=True),
        "gave 11 samples .* gives 10",
    ),
    "an end": (PLAIN["without a length"], PLAIN["sequential"], "gave samples without an end .* gives 42 samples"),
    "no end": (PLAIN["sequential"], PLAIN["without a length"], "gave 42 samples .* gives samples without an end"),
    "without a length": (PLAIN["without a length"], lambda: Unsized(endless(5)), "in another order"),
    "draws of its own": (OwnDraws, lambda: WornOut(OwnDraws()), "needs a state_dict"),
}


class WornOut(Sampler[int]):
    """A sampler that was iterated over before."""

    def __init__(self, sampler: Any) -> None:
        list(sampler)
        self._sampler = sampler

    def __iter__(self) -> Iterator[int]:
        """As the other one gives them."""
        return iter(self._sampler)

    def __len__(self) -> int:
        """As the other one."""
        return len(self._sampler)


@pytest.mark.parametrize("case", REFUSED)
def test_another_order_is_refused_and_the_loader_stays_as_it_was(case: str) -> None:
    """The load says what differs, and the loader can be used without it."""
    saved, loaded, message = REFUSED[case]
    first = loader_of(sampler=saved())
    taken(first, 2)
    loader = loader_of(50, sampler=loaded())
    before = loader.state_dict()
    with pytest.raises(ValueError, match=f"(?s)cannot resume: .*{message}"):
        loader.load_state_dict(through(first.state_dict()))
    after = loader.state_dict()
    assert through(after).keys() == before.keys()
    assert (after["batches"], after["epoch"]) == (0, 0)
    if case != "draws of its own":
        assert taken(loader, 3) == taken(loader_of(50, sampler=loaded()), 3)


def test_batches_that_a_sampler_makes_stay_as_it_makes_them() -> None:
    """They resume where one ends, if the samples have the same order."""
    whole = flat(list(loader_of(batch_sampler=Buckets(2, 6, 4))))
    for sizes in ((2, 6, 4), (4,), (12,), (8, 16)):
        seen, rest = left(loader_of(batch_sampler=Buckets(2, 6, 4)), loader_of(batch_sampler=Buckets(*sizes)), 6)
        assert seen + flat(rest) == whole
        assert rest[0] == whole[24 : 24 + sizes[0]]
    plain = loader_of(batch_sampler=Buckets(2, 6, 4))
    taken(plain, 5)
    other = loader_of(batch_sampler=Buckets(8))
    with pytest.raises(ValueError, match="after 20 samples, and no batch of Buckets ends there"):
        other.load_state_dict(through(plain.state_dict()))


def test_an_endless_sampler_goes_on_where_a_batch_ends() -> None:
    """Any batch size resumes if the given samples are the beginning of the order; three times."""
    whole = taken(loader_of(sampler=Unsized(endless())), 20)
    seen: list[int] = []
    loader = loader_of(sampler=Unsized(endless()))
    for size, batches in ((2, 4), (8, 2), (4, 3)):
        seen += flat(taken(loader, 1))
        loader = loader_with(loader_of(sampler=Unsized(endless()), batch_size=size), loader.state_dict())
        seen += flat(taken(loader, batches))
        loader = loader_with(loader_of(sampler=Unsized(endless())), loader.state_dict())
    assert seen == flat(whole)[: len(seen)]
    state = loader_of(sampler=Unsized(endless()))
    taken(state, 1)
    with pytest.raises(ValueError, match="after 4 samples, and no batch of Unsized ends there"):
        loader_of(sampler=Unsized(endless()), batch_size=3).load_state_dict(state.state_dict())


def test_batches_without_a_number_go_on() -> None:
    """A batch sampler without a length is drawn from up to the caller's position; its end ends the epoch."""
    seen, rest = left(loader_of(batch_sampler=Unsized(in_batches(4))), loader_of(batch_sampler=Unsized(in_batches(2))))
    assert seen + flat(rest) == list(range(NUMBER))
    saved = loader_of(batch_sampler=Unsized(in_batches(4)))
    taken(saved, 10)
    shorter = Unsized(lambda: iter([[index] for index in range(9)]))
    with pytest.raises(ValueError, match="after 10 batches, and Unsized gives 9"):
        loader_of(batch_sampler=shorter).load_state_dict(saved.state_dict())


def test_a_sampler_that_changes_after_the_load_is_compared_again() -> None:
    """A changed one raises at each first batch; as it was before, it resumes."""
    saved = loader_of(sampler=Growing())
    seen = flat(taken(saved, 3))
    sampler = Growing()
    loader = loader_with(loader_of(sampler=sampler), saved.state_dict())
    sampler.samples = 50
    for _ in range(2):
        with pytest.raises(ValueError, match=r"gave 42 samples .* gives 50"):
            iter(loader)
    sampler.samples = NUMBER
    assert seen + flat(list(loader)) == list(range(NUMBER))
    assert loader.epoch == 1


def test_a_batch_size_that_changes_after_the_load_is_gone_on_with() -> None:
    """The rest comes in batches of the new size."""
    saved = loader_of(sampler=PLAIN["random"]())
    whole = flat(list(loader_of(sampler=PLAIN["random"]())))
    seen = flat(taken(saved, 3))
    batches = BatchSampler(PLAIN["random"](), 4, drop_last=False)
    loader = loader_with(loader_of(batch_sampler=batches), saved.state_dict())
    batches.batch_size = 7
    rest = list(loader)
    assert [len(batch) for batch in rest] == [7, 7, 7, 7, 2]
    assert seen + flat(rest) == whole


def test_an_epoch_that_is_set_after_the_load(caplog: pytest.LogCaptureFixture) -> None:
    """The same one is resumed, set on the loader or the sampler; another one starts over, and that is logged."""
    whole = loader_of(sampler=distributed())
    list(whole)
    wanted = flat(list(whole))
    saved = loader_of(sampler=distributed())
    list(saved)
    seen = flat(taken(saved, 3))
    for is_sampler in (False, True):
        loader = loader_with(loader_of(sampler=distributed()), saved.state_dict())
        (loader.sampler if is_sampler else loader).set_epoch(1)  # type: ignore[union-attr]
        assert seen + flat(list(loader)) == wanted
    assert "gives up the position" not in caplog.text
    loader = loader_with(loader_of(sampler=distributed()), saved.state_dict())
    loader.set_epoch(0)
    assert flat(list(loader)) == flat(list(loader_of(sampler=distributed())))
    assert "set_epoch(0) gives up the position that was loaded: epoch 1, after 3 batches" in caplog.text


def old(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state as older versions saved it, which say nothing of the order."""
    return {name: state[name] for name in ("seed", "epoch", "samplers", "batches", "others")}


@pytest.mark.parametrize("kind", PLAIN)
def test_states_of_older_versions_load(kind: str) -> None:
    """They resume by batches; one beyond the end of the order is refused."""
    whole = taken(loader_of(sampler=PLAIN[kind]()), 7)
    saved = loader_of(sampler=PLAIN[kind]())
    seen = taken(saved, 3)
    loader = loader_of(sampler=PLAIN[kind]())
    loader.load_state_dict(through(old(saved.state_dict())))
    assert seen + taken(loader, 4) == whole
    if kind != "without a length":
        with pytest.raises(ValueError, match=r"after 3 batches, and .* gives 1"):
            loader_of(sampler=PLAIN[kind](), batch_size=50).load_state_dict(old(saved.state_dict()))


def test_the_state_of_one_rank_serves_another() -> None:
    """Each rank resumes its own part of rank 0's state, and all of them refuse another order."""
    parts = [flat(list(loader_of(sampler=distributed(world=3, rank=rank)))) for rank in range(3)]
    saved = loader_of(sampler=distributed(world=3, rank=0))
    taken(saved, 2)
    for rank, part in enumerate(parts):
        loader = loader_with(loader_of(sampler=distributed(world=3, rank=rank), batch_size=2), saved.state_dict())
        assert flat(list(loader)) == part[8:]
        with pytest.raises(ValueError, match="in another order"):
            loader_of(sampler=distributed(world=3, rank=rank, seed=1)).load_state_dict(saved.state_dict())


def test_a_state_is_plain_and_small() -> None:
    """It holds no list of samples, however many there are."""
    samples = 100_000
    for options in (
        {"sampler": RandomSampler(range(samples))},
        {"batch_sampler": Buckets(50, 70, samples=samples)},
        {"sampler": Unsized(endless())},
    ):
        loader = loader_of(samples, **options)
        taken(loader, 100)
        torch.save(loader.state_dict(), file := io.BytesIO())
        assert len(file.getvalue()) < 3000
        assert through(loader.state_dict()) == loader.state_dict()


def test_what_is_loaded_twice_is_drawn_once() -> None:
    """A second load does not move a sampler that counts by itself."""
    saved = loader_of(sampler=Counting())
    seen = flat(taken(saved, 3))
    sampler = Counting()
    loader = loader_of(sampler=sampler)
    for _ in range(3):
        loader.load_state_dict(through(saved.state_dict()))
    assert seen + flat(list(loader)) == flat(list(loader_of(sampler=Counting())))
    assert sampler.passes == 1
    in_its_second_epoch = loader_of(sampler=Counting())
    list(in_its_second_epoch)
    taken(in_its_second_epoch, 3)
    with pytest.raises(ValueError, match="in another order"):
        loader_of(sampler=Counting()).load_state_dict(in_its_second_epoch.state_dict())


def test_gaps_belong_to_their_batches() -> None:
    """A state with gaps of ``in_order=False`` resumes only with the same batches."""
    kinds: tuple[Callable[[int], dict[str, Any]], ...] = (
        lambda size: {"sampler": PLAIN["random"](), "batch_size": size},
        lambda size: {"batch_sampler": Buckets(size)},
    )
    for options in kinds:
        saved = loader_of(**options(4))
        seen = taken(saved, 3)
        state = {**saved.state_dict(), "others": [5]}
        whole = list(loader_of(**options(4)))
        assert seen + list(loader_with(loader_of(**options(4)), state)) == [*whole[:5], *whole[6:]]
        with pytest.raises(ValueError, match="in_order=False"):
            loader_of(**options(6)).load_state_dict(state)


@pytest.mark.parametrize(
    "items", [[f"{index}.jpg" for index in range(12)], [(index, index % 3) for index in range(12)]]
)
def test_samples_may_have_names(items: list[Any]) -> None:
    """A sampler may give names instead of numbers."""

    def made(order: list[Any], size: int | None = 4) -> StorageDataLoader:
        dataset: Any = {item: item for item in items}
        return StorageDataLoader(dataset, sampler=order, batch_size=size, collate_fn=as_list)

    seen, rest = left(made(items), made(items, 3), 2)
    assert seen + flat(rest) == items
    saved = made(items)
    taken(saved, 2)
    with pytest.raises(ValueError, match="in another order"):
        made(items[::-1]).load_state_dict(saved.state_dict())


def test_drop_last_may_change_under_the_loaders_own_order() -> None:
    """With it, what fills no batch of the rest is left out as at the end of any epoch; without it, nothing is."""
    whole = flat(list(loader_of(shuffle=True)))
    seen, rest = left(loader_of(shuffle=True), loader_of(shuffle=True, drop_last=True))
    assert seen + flat(rest) == whole[:40]
    seen, rest = left(loader_of(shuffle=True, drop_last=True), loader_of(shuffle=True))
    assert seen + flat(rest) == whole
    for sampler in (PLAIN["sequential"], PLAIN["random"]):
        whole = flat(list(loader_of(sampler=sampler())))
        seen, rest = left(loader_of(sampler=sampler()), loader_of(sampler=sampler(), drop_last=True))
        assert seen + flat(rest) == whole[:40]
        seen, rest = left(loader_of(sampler=sampler(), drop_last=True), loader_of(sampler=sampler()))
        assert seen + flat(rest) == whole


class Reversed(StorageSampler):
    """A user's subclass with another order."""

    def order(self, epoch: int) -> list[int]:
        """The reversed order."""
        return super().order(epoch)[::-1]


def test_an_order_of_a_subclass_is_not_that_of_the_class() -> None:
    """The order of a subclass of `StorageSampler` is compared as others are."""
    whole = flat(list(loader_of(sampler=Reversed(range(NUMBER)))))
    seen, rest = left(loader_of(sampler=Reversed(range(NUMBER))), loader_of(sampler=Reversed(range(NUMBER))))
    assert seen + flat(rest) == whole
    for saved, loaded in ((Reversed, StorageSampler), (StorageSampler, Reversed)):
        first = loader_of(sampler=saved(range(NUMBER)))
        taken(first, 2)
        with pytest.raises(ValueError, match="in another order"):
            loader_of(sampler=loaded(range(NUMBER))).load_state_dict(first.state_dict())


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_sampler_that_saves_what_it_has_given_is_resumed_in_each_epoch(epochs: int) -> None:
    """Its state before an epoch may still be that of the end of the one before."""
    whole = flat(list(loader_of(sampler=Yielding())))
    loader = loader_of(sampler=Yielding())
    for _ in range(epochs):
        assert flat(list(loader)) == whole
    seen: list[int] = []
    for size in (4, 6, 3):
        seen += flat(taken(loader, 2))
        state = through(loader.state_dict())
        loader = loader_of(sampler=Yielding(), batch_size=size)
        loader.load_state_dict(state)
    assert seen + flat(list(loader)) == whole
    assert flat(list(loader)) == whole


def test_endless_batches_that_overtook_others_are_not_given_again() -> None:
    """A batch that overtook others counts once those before it have been given."""
    whole = taken(loader_of(sampler=Unsized(endless())), 9)
    saved = loader_of(sampler=Unsized(endless()))
    seen = taken(saved, 2)
    state = {**saved.state_dict(), "others": [3, 4]}
    loader = loader_with(loader_of(sampler=Unsized(endless())), state)
    seen += taken(loader, 1)
    assert loader.state_dict()["given"] == 20
    again = loader_with(loader_of(sampler=Unsized(endless())), loader.state_dict())
    assert seen + taken(again, 4) == [*whole[:3], *whole[5:]]


def test_a_subclass_that_only_deals_out_may_deal_out_in_another_size() -> None:
    """A subclass of BatchSampler that makes batches as torch does may change the size."""

    class Batches(BatchSampler):
        pass

    def made(size: int) -> StorageDataLoader:
        return loader_of(batch_sampler=Batches(PLAIN["random"](), size, drop_last=False))

    whole = flat(list(made(4)))
    seen, rest = left(made(4), made(7))
    assert seen + flat(rest) == whole


def test_an_error_of_the_sampler_leaves_the_loader_as_it_was() -> None:
    """An error of the sampler during the comparison is raised, and nothing is loaded."""

    class Broken(Growing):
        is_broken = False

        def __iter__(self) -> Iterator[int]:
            if self.is_broken:
                raise LookupError("no such list")
            return super().__iter__()

    saved = loader_of(sampler=Growing())
    taken(saved, 3)
    sampler = Broken()
    loader = loader_of(sampler=sampler)
    sampler.is_broken = True
    with pytest.raises(LookupError, match="no such list"):
        loader.load_state_dict(saved.state_dict())
    sampler.is_broken = False
    assert flat(list(loader)) == list(range(NUMBER))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("length", "cannot resume: the state was saved for 42 samples, this dataset has 44"),
        ("seed", "saved with seed=0"),
    ],
)
def test_the_loaders_own_order_is_compared_again_at_the_first_batch(change: str, message: str) -> None:
    """A dataset that has grown since the load has another order; each time, and not once another epoch is set."""
    dataset = list(range(NUMBER))

    def made() -> StorageDataLoader:
        return StorageDataLoader(dataset, batch_size=4, shuffle=True, collate_fn=as_list)  # type: ignore[arg-type]

    saved = made()
    taken(saved, 3)
    loader = loader_with(made(), saved.state_dict())
    if change == "length":
        dataset += [42, 43]
    else:
        assert isinstance(loader.sampler, StorageSampler)
        loader.sampler.seed = 1
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            iter(loader)
    loader.set_epoch(1)
    assert sorted(flat(list(loader))) == dataset


def test_a_sampler_that_is_restored_besides_its_loader_is_set_back() -> None:
    """A checkpoint may hold both; the sampler then stands in mid-epoch when the loader begins."""
    whole = flat(list(loader_of(sampler=Yielding())))
    sampler = Yielding()
    saved = loader_of(sampler=sampler)
    seen = flat(taken(saved, 3))
    state = through({"loader": saved.state_dict(), "sampler": {"given": 12}})
    sampler = Yielding()
    loader = loader_of(sampler=sampler)
    loader.load_state_dict(state["loader"])
    sampler.load_state_dict(state["sampler"])
    assert seen + flat(list(loader)) == whole
    assert flat(list(loader)) == whole


@pytest.mark.parametrize("options", [{"shuffle": True}, {"sampler": SequentialSampler(range(NUMBER))}])
def test_files_are_compared_again_at_the_first_batch(tmp_path: Path, options: dict[str, Any]) -> None:
    """A dataset that was listed again since the load has other samples, of the same number."""
    for number in range(NUMBER):
        (tmp_path / f"{number:02}.txt").write_text(str(number))
    dataset = StorageDataset(str(tmp_path), decode="text", cache=None)

    def made() -> StorageDataLoader:
        return StorageDataLoader(dataset, batch_size=4, collate_fn=as_list, **options)

    saved = made()
    taken(saved, 3)
    loader = loader_with(made(), saved.state_dict())
    (tmp_path / "00.txt").rename(tmp_path / "99.txt")
    dataset.refresh()
    with pytest.raises(ValueError, match="the samples are not those that the state was saved with"):
        iter(loader)
    loader.set_epoch(3)
    assert len(flat(list(loader))) == NUMBER


class Sharded(Sampler[int]):
    """A sampler that asks for the number of ranks at each iteration, as one that waits for a process group."""

    world = 1

    def __iter__(self) -> Iterator[int]:
        """The part of rank 0."""
        return iter(range(0, NUMBER, self.world))

    def __len__(self) -> int:
        """Of that part."""
        return len(range(0, NUMBER, self.world))


def test_a_group_that_is_made_after_the_load_is_waited_for() -> None:
    """A state of several ranks is compared at the first batch, where the sampler knows how many there are."""
    sampler = Sharded()
    sampler.world = 2
    saved = loader_of(sampler=sampler)
    seen = flat(taken(saved, 2))
    state = {**through(saved.state_dict()), "rank": [0, 2]}  # as in a process group of two
    sampler = Sharded()
    loader = loader_of(sampler=sampler, batch_size=3)
    loader.load_state_dict(state)
    with pytest.raises(ValueError, match=r"Sharded gave 21 samples .* gives 42"):
        iter(loader)
    sampler.world = 2
    assert seen + flat(list(loader)) == list(range(0, NUMBER, 2))


@pytest.mark.parametrize("kind", PLAIN)
def test_a_loader_that_has_loaded_may_be_pickled(kind: str) -> None:
    """The copy of a loader that has loaded a state resumes at the same position."""
    saved = loader_of(sampler=[3, 1, 2, 0] * 10 if kind == "without a length" else PLAIN[kind]())
    list(saved)
    seen = taken(saved, 2)
    loader = loader_with(loader_of(sampler=saved.sampler), saved.state_dict())
    assert list(pickle.loads(pickle.dumps(loader))) == list(loader)  # noqa: S301  our own
    assert seen
