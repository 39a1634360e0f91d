"""An evaluation on several ranks gives each sample once, or says that it does not; also under Lightning and Fabric."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, RandomSampler

from ai4os_data import StorageDataLoader, StorageSampler
from tests.support.ranks import run_by_ranks

lightning = pytest.importorskip("lightning", reason="lightning is not installed")
torchmetrics = pytest.importorskip("torchmetrics", reason="lightning is not installed, and torchmetrics with it")

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning's own, about devices, workers and loggers

SAMPLES = 13
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Model(lightning.LightningModule):  # type: ignore[misc, name-defined]  # without it there are no types
    """Remembers what it was given, and has the mean of it logged."""

    def __init__(self, loaders: Any = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.mean = torchmetrics.MeanMetric()
        self.seen: list[int] = []
        self._loaders = loaders

    def predict_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        """Give back what came."""
        self.seen += batch.tolist()
        return batch

    def test_step(self, batch: torch.Tensor, _: int) -> None:  # noqa: PT019  no test, a hook
        """Take note of it."""
        self.seen += batch.tolist()
        self.mean.update(batch)
        self.log("mean", self.mean)

    def predict_dataloader(self) -> Any:
        """Return a loader whose arguments Lightning captures."""
        return self._loaders()


class Writer(lightning.pytorch.callbacks.BasePredictionWriter):  # type: ignore[misc, name-defined]
    """Remembers which indices Lightning says a prediction is of."""

    def __init__(self) -> None:
        super().__init__("batch")
        self.indices: list[list[int]] = []

    def write_on_batch_end(self, _: Any, __: Any, prediction: Any, indices: Any, *___: Any) -> None:
        """Take note of them; each sample is its own number."""
        assert prediction.tolist() == list(indices)
        self.indices.append(list(indices))


def in_hook() -> StorageDataLoader:
    """Return a loader."""
    return StorageDataLoader(range(SAMPLES), batch_size=4)  # type: ignore[arg-type]


def heard_of() -> list[str]:
    """Return a list that our warnings come into."""
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("ai4os_data").addHandler(handler)
    return heard


def evaluated() -> dict[str, list[int]]:
    """Predict and test under DDP, and return what this rank was given."""
    heard = heard_of()

    def seen(task: str, loader: Any, **options: Any) -> list[int]:
        writer = Writer()
        trainer = lightning.Trainer(
            accelerator="cpu", devices=2, strategy="ddp", callbacks=[writer], **QUIET, **options
        )
        model = Model(in_hook if loader is None else None)
        getattr(trainer, task)(model, **({} if loader is None else {"dataloaders": loader}))
        if task == "predict":
            assert [number for batch in writer.indices for number in batch] == model.seen
        else:
            means.append(float(trainer.callback_metrics["mean"]))
        return model.seen

    means: list[float] = []

    def loader(**options: Any) -> StorageDataLoader:
        return StorageDataLoader(range(SAMPLES), **{"batch_size": 4, **options})  # type: ignore[arg-type]

    same = loader()
    everything = StorageSampler(range(SAMPLES), 1, 0, shuffle=False)
    told: dict[str, Any] = {
        "plain": seen("predict", DataLoader(range(SAMPLES), 4)),  # type: ignore[arg-type]
        "predict": seen("predict", same),
        "predict in a hook": seen("predict", None),
        "predict, shuffled": seen("predict", loader(shuffle=True)),
        "predict, dropped": seen("predict", loader(drop_last=True)),
        "predict, own sampler": seen("predict", loader(sampler=RandomSampler(range(SAMPLES)))),
        "predict one by one": seen("predict", loader(batch_size=1)),
    }
    told["heard"] = list(heard)
    told |= {
        "test": seen("test", same),
        "test, uneven": seen("test", loader(even_batches=False)),
        "test, a batch less": seen("test", loader(even_batches=False, batch_size=1)),
        "test, all": seen("test", loader(sampler=everything), use_distributed_sampler=False),
    }
    told["heard then"] = list(heard)
    told["means"] = means
    return told


def test_lightning_predicts_each_sample_once_and_says_what_a_test_repeats() -> None:
    """13 samples on 2 ranks: 13 predictions with their indices; a test gives 14, with a warning, or 13 if asked to."""
    first, second = run_by_ranks(evaluated)
    for name in set(first) - {"predict, dropped", "test", "test, all", "heard", "heard then", "means"}:
        assert sorted(first[name] + second[name]) == list(range(SAMPLES)), name
    assert len(first["predict, dropped"] + second["predict, dropped"]) == 12
    assert (first["heard"], second["heard"]) == ([], [])
    assert sorted(first["test"] + second["test"]) == sorted([0, *range(SAMPLES)])
    (said,) = first["heard then"]
    assert said.startswith("1 of 13 samples will be given twice, so that 2 ranks make as many steps.")
    assert "even_batches=False" in said
    assert second["heard then"] == []
    assert first["means"] == second["means"] == [pytest.approx(78 / 14), 6.0, 6.0, 6.0]
    assert first["test, all"] == second["test, all"] == list(range(SAMPLES))


# --- without Lightning


def uneven() -> list[Any]:
    """Go through loaders of uneven ranks, with states after each batch."""
    dist.init_process_group("gloo")
    told = []
    for samples, batch_size in ((13, 4), (9, 4), (1, 2), (13, None)):
        loader = StorageDataLoader(range(samples), batch_size, even_batches=False)  # type: ignore[arg-type]
        seen: list[int] = []
        done = []
        for batch in loader:
            seen += batch.tolist() if batch_size else [batch]
            done.append(loader.state_dict()["done"])
        assert len(loader) == len(done)
        told.append((seen, done))
    return told


def test_uneven_ranks_give_each_sample_once_and_can_be_resumed() -> None:
    """A rank may have a batch less, or none; after its last batch its rest is empty."""
    first, second = run_by_ranks(uneven)
    for samples, one, other in zip((13, 9, 1, 13), first, second, strict=True):
        assert sorted(one[0] + other[0]) == list(range(samples))
    assert [done for _, done in first] == [[8, 13], [8, 9], [1], [2, 4, 6, 8, 10, 12, 13]]
    assert [done for _, done in second] == [[8, 13], [9], [], [2, 4, 6, 8, 10, 13]]


def fabric_epochs() -> dict[str, Any]:
    """Train with Fabric, save, load, and go on."""
    heard = heard_of()
    fabric = lightning.Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()

    def loader() -> StorageDataLoader:
        return StorageDataLoader(range(16), 2, shuffle=True)  # type: ignore[arg-type]

    def seen(batches: Any) -> list[int]:
        return [number for batch in batches for number in batch.tolist()]

    given = fabric.setup_dataloaders(loader())
    told: dict[str, Any] = {"epochs": [seen(given), seen(given)]}
    begun = loader()
    begun.set_epoch(3)
    passing = iter(begun)
    told["begun"] = seen([next(passing), next(passing)])
    state = begun.state_dict()
    resumed = loader()
    resumed.load_state_dict(state)
    told["rest"] = seen(resumed)
    assert heard == []
    again = loader()
    again.load_state_dict(state)
    told["rest of wrapped"] = seen(fabric.setup_dataloaders(again))
    told["heard"] = heard
    return told


def test_fabric_leaves_the_loader_as_it_is_and_a_loaded_position_stays() -> None:
    """Fabric's count of epochs continues from the loaded position."""
    first, second = run_by_ranks(fabric_epochs)
    for one, other in zip(first["epochs"], second["epochs"], strict=True):
        assert sorted(one + other) == list(range(16))
    assert first["epochs"][0] != first["epochs"][1]
    assert sorted(first["begun"] + first["rest"] + second["begun"] + second["rest"]) == list(range(16))
    assert first["rest of wrapped"] == first["rest"]
    assert second["rest of wrapped"] == second["rest"]
    assert first["heard"] == []
