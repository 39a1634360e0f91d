"""Lightning uses the loader as it is, and resumes with it in mid-epoch."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils.data import BatchSampler, Dataset, RandomSampler

from ai4os_data import StorageDataLoader
from tests.support.epochs import dataset_of, loader_of

if TYPE_CHECKING:
    from pathlib import Path

    from ai4os_data import Sample
    from tests.support.shares import Share

lightning = pytest.importorskip("lightning", reason="lightning is not installed")
from lightning.pytorch.utilities import CombinedLoader  # noqa: E402  it needs lightning

from ai4os_data.lightning.callback import StorageCheckpointCallback  # noqa: E402  it needs lightning

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning's own, about devices, workers and loggers


def number_of(sample: Sample) -> torch.Tensor:
    """Return the number of a sample."""
    return torch.tensor([float(sample.key[:2])])


class Model(lightning.LightningModule):  # type: ignore[misc, name-defined]  # without it there are no types
    """Remembers the batches of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        """Learn nothing."""
        self.seen.append((self.current_epoch, [int(number) for number in batch.flatten()]))
        loss: torch.Tensor = self.layer(batch).sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Change nothing."""
        return torch.optim.SGD(self.parameters(), 0.0)


class SaveAt(lightning.Callback):  # type: ignore[misc, name-defined]
    """Saves a checkpoint after a step."""

    def __init__(self, step: int, path: Path) -> None:
        self._step = step
        self._path = path

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Save when it is time."""
        if trainer.global_step == self._step:
            trainer.save_checkpoint(self._path)


@pytest.mark.parametrize("workers", [0, 2])
def test_fit_goes_on_in_mid_epoch(share: Share, tmp_path: Path, workers: int) -> None:
    """From a checkpoint of step eleven the rest of three epochs comes exactly, each in its own order."""
    dataset = dataset_of(share, tmp_path / "cache", decode=number_of)
    path = tmp_path / "eleven.ckpt"

    def fit(resumed: Path | None, *callbacks: Any) -> list[tuple[int, list[int]]]:
        model = Model()
        trainer = lightning.Trainer(
            max_epochs=3,
            accelerator="cpu",
            callbacks=list(callbacks),
            default_root_dir=tmp_path,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            logger=False,
        )
        trainer.fit(model, loader_of(dataset, workers, collate_fn=None), ckpt_path=resumed)
        return model.seen

    whole = fit(None, SaveAt(11, path))
    assert len(whole) == 24
    assert len({tuple(batch) for _, batch in whole}) == 24
    assert whole[:11] + fit(path) == whole


# --- several loaders, and loaders that are set up early

OTHERS = 100  # the numbers of the shorter loader's samples begin here


class Numbers(Dataset[torch.Tensor]):
    """Numbers in a row."""

    def __init__(self, first: int, length: int) -> None:
        self.first = first
        self.length = length

    def __len__(self) -> int:
        """As many."""
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        """One of them."""
        return torch.tensor([float(self.first + index)])


def numbers(first: int, length: int, kind: str = "own", **options: Any) -> StorageDataLoader:
    """Return a loader of numbers that shuffles, with our sampler or a foreign one."""
    dataset = Numbers(first, length)
    order: dict[str, Any] = {"shuffle": True} if kind == "own" else {"sampler": RandomSampler(dataset)}
    return StorageDataLoader(dataset, 4, seed=first, **order, **options)


def both(kind: str, **options: Any) -> dict[str, StorageDataLoader]:
    """Return a loader of six batches, and one of two."""
    return {"a": numbers(0, 24, kind, **options), "b": numbers(OTHERS, 8, kind, **options)}


class Many(Model):
    """Takes a batch of several loaders, and may ask early how many steps there will be."""

    def __init__(self, *, asks: bool = False) -> None:
        super().__init__()
        self.asks = asks

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        """Learn nothing."""
        parts = [part for part in torch.utils._pytree.tree_leaves(batch) if part is not None]
        self.seen.append((self.current_epoch, [int(number) for part in parts for number in part.flatten()]))
        loss: torch.Tensor = self.layer(parts[0]).sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Change nothing."""
        if self.asks:
            assert self.trainer.estimated_stepping_batches > 0
        return super().configure_optimizers()


class FailAt(lightning.Callback):  # type: ignore[misc, name-defined]
    """Ends the training before a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """End it."""
        if trainer.global_step == self._step:
            raise RuntimeError("the end")


def trainer_of(tmp_path: Path, *callbacks: Any, **options: Any) -> Any:
    """Return a quiet trainer."""
    quiet = dict.fromkeys(("enable_model_summary", "enable_progress_bar", "logger", "enable_checkpointing"), False)
    ours = any(isinstance(callback, StorageCheckpointCallback) for callback in callbacks)
    given = {"max_epochs": 3, "accelerator": "cpu", **quiet, "enable_checkpointing": ours, **options}
    return lightning.Trainer(callbacks=list(callbacks), default_root_dir=tmp_path, **given)


def legs(tmp_path: Path, cuts: list[int], loaders: Any, *, asks: bool = False, **options: Any) -> list[Any]:
    """The batches of a training that ended before each of these steps and was resumed."""
    seen: list[Any] = []
    for cut in [*cuts, None]:
        model = Many(asks=asks)
        callback = StorageCheckpointCallback(tmp_path / "run", spool=tmp_path / "spool")
        ends = [] if cut is None else [FailAt(cut)]
        trainer = trainer_of(tmp_path, *ends, callback, **options)
        if cut is None:
            trainer.fit(model, loaders(), ckpt_path=callback.resume_path())
        else:
            with pytest.raises(RuntimeError, match="the end"):
                trainer.fit(model, loaders(), ckpt_path=callback.resume_path())
        seen += model.seen
    return seen


def alone(tmp_path: Path, loaders: Any, *, asks: bool = False, **options: Any) -> list[Any]:
    """The batches of a training without an interruption."""
    model = Many(asks=asks)
    trainer_of(tmp_path, **options).fit(model, loaders())
    return model.seen


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["own", "foreign"])
@pytest.mark.parametrize("mode", ["max_size_cycle", "max_size", "min_size"])
def test_several_loaders_go_on_together(tmp_path: Path, mode: Any, kind: str, workers: int) -> None:
    """Each resumes, whichever passes were under way, also after a second interruption."""

    def loaders() -> Any:
        return CombinedLoader(both(kind, num_workers=workers), mode)

    whole = alone(tmp_path, loaders)
    all_cuts = [[3], [1, 4]] if mode == "min_size" else [[1, 3], [4], [5, 8], [6, 17]]
    for number, cuts in enumerate(all_cuts if workers == 0 else all_cuts[-1:]):
        assert legs(tmp_path / str(number), cuts, loaders) == whole


def test_shorter_loader_comes_in_another_order_each_time(tmp_path: Path) -> None:
    """It makes three passes in an epoch of the longer one, each with all samples in another order."""
    seen = alone(tmp_path, lambda: both("own"), max_epochs=1)
    passes = [[number for _, batch in seen[at : at + 2] for number in batch if number >= OTHERS] for at in (0, 2, 4)]
    assert [sorted(one) for one in passes] == [list(range(OTHERS, OTHERS + 8))] * 3
    assert len({tuple(one) for one in passes}) == 3


@pytest.mark.parametrize("cut", [3, 6, 7, 12])
@pytest.mark.parametrize("options", [{}, {"max_steps": 18}, {"reload_dataloaders_every_n_epochs": 1}])
@pytest.mark.parametrize("kind", ["own", "foreign"])
def test_early_setup_loses_no_position(tmp_path: Path, kind: str, options: dict[str, Any], cut: int) -> None:
    """A scheduler that asks how many steps there will be has the loaders set up before their states are there."""

    def loaders() -> Any:
        return numbers(0, 24, kind)

    whole = alone(tmp_path, loaders, asks=True, **options)
    assert legs(tmp_path, [cut], loaders, asks=True, **options) == whole


@pytest.mark.parametrize(
    "options",
    [
        {"overfit_batches": 4},
        {"limit_train_batches": 4},
        {"max_epochs": -1, "max_steps": 18},
        {"reload_dataloaders_every_n_epochs": 2},
        {"accumulate_grad_batches": 2},
    ],
)
def test_lists_of_loaders_go_on_whatever_the_trainer_does(tmp_path: Path, options: dict[str, Any]) -> None:
    """Lists of loaders resume, nested ones too, though the trainer sets them up early."""

    def loaders() -> Any:
        return [numbers(0, 24), [numbers(OTHERS, 8, "foreign"), numbers(200, 12)]]

    whole = alone(tmp_path, loaders, asks=True, **options)
    assert legs(tmp_path, [2, 5], loaders, asks=True, **options) == whole


@pytest.mark.parametrize("mode", ["max_size_cycle", "max_size"])
@pytest.mark.parametrize("kind", ["own", "foreign"])
def test_early_setup_loses_no_position_of_lightnings_checkpoints(tmp_path: Path, kind: str, mode: Any) -> None:
    """Without our callback too, as with ``ModelCheckpoint``: the loaders look for what was left for them."""

    def loaders() -> Any:
        return CombinedLoader(both(kind), mode)

    whole = alone(tmp_path, loaders, asks=True)
    for cut in (3, 4, 5, 9):
        path = tmp_path / f"{cut}.ckpt"
        model = Many(asks=True)
        trainer_of(tmp_path, SaveAt(cut, path), max_epochs=2).fit(model, loaders())
        assert model.seen == whole[:12]
        again = Many(asks=True)
        trainer_of(tmp_path).fit(again, loaders(), ckpt_path=path)
        assert whole[:cut] + again.seen == whole


def test_subclass_makes_iterators_of_its_own() -> None:
    """A subclass that overrides what DataLoader calls makes each pass; an epoch can be set on a batch sampler."""

    class Counting(StorageDataLoader):
        made = 0

        def _get_iterator(self) -> Any:
            self.made += 1
            return super()._get_iterator()

    loader = Counting(Numbers(0, 24), 4, shuffle=True)
    first, second = [[batch.tolist() for batch in loader] for _ in range(2)]
    assert loader.made == 2
    tell: Any = getattr(loader.batch_sampler, "set_epoch")  # noqa: B009  a BatchSampler has none, for mypy
    assert type(loader.batch_sampler) is BatchSampler
    tell(0)
    assert [batch.tolist() for batch in loader] == first != second
    copy = pickle.loads(pickle.dumps(StorageDataLoader(Numbers(0, 24), 4, shuffle=True)))  # noqa: S301  our own
    assert [batch.tolist() for batch in copy] == first
