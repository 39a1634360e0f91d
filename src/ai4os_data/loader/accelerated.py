"""A loader under Hugging Face Accelerate: ``prepare`` leaves it alone, and each sample goes to one process once.

Accelerate makes a new loader of each one that it prepares, and that new loader shares out the batches among the
processes once more. It leaves a loader alone that says that it is prepared. So ours says so, and does for its caller
what the new loader would do. This module never imports Accelerate itself.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from ai4os_data.loader.sharing import share_of
from ai4os_data.telemetry import tell_once

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_OTHER_LOADERS = {"MEGATRON_LM", "XLA"}  # kinds of training for which Accelerate has to make a loader of its own
_PARTS_OF_A_MODEL = {"cp", "sp", "tp"}  # dimensions of a mesh along which processes see the same samples


class Accelerated:
    """The attributes that ``accelerate.Accelerator`` looks for in a loader.

    Subclasses are loaders, with ``batch_size``, ``dataset``, ``sampler`` and ``batch_sampler``.
    """

    if TYPE_CHECKING:
        batch_size: int | None
        dataset: Any
        sampler: Any
        batch_sampler: Any

    end_of_dataloader = False  # the batch that the caller has is the last one
    remainder = -1  # how many of the last batch of all processes together count; -1 if all do
    use_stateful_dataloader = True  # Accelerator.save_state() and load_state() keep the position
    _placement: Placement | None = None

    @property
    def total_batch_size(self) -> int:
        """How many samples a step takes, over all processes."""
        return (self.batch_size or 1) * self._shares

    @property
    def total_dataset_length(self) -> int:
        """How many samples there are, over all processes."""
        return len(self.dataset)

    @property
    def gradient_state(self) -> Any:
        """Accelerate's state of the loaders in use, as its own loaders show it.

        Raises:
            AttributeError: Accelerate is not in use.
        """
        if "accelerate" not in sys.modules:
            raise AttributeError("gradient_state")
        return _gradient_state()

    @property
    def _is_accelerate_prepared(self) -> bool:
        """Whether Accelerate leaves the loader alone; only Accelerate reads this attribute.

        The accelerator is found on the stack: it asks for this attribute, and does not pass itself to a loader.

        Raises:
            AttributeError: no accelerator asks.
            ValueError: it would share out the samples in another way than this loader can.
        """
        frame = sys._getframe(1)  # noqa: SLF001  there is no public way
        accelerator = _accelerator_of(frame)
        if accelerator is None:
            raise AttributeError("_is_accelerate_prepared")
        return self._prepared_for(accelerator, is_placed=frame.f_locals.get("device_placement"))

    @_is_accelerate_prepared.setter
    def _is_accelerate_prepared(self, _: bool) -> None:
        """Accelerate sets it on everything that it has prepared."""

    def _prepared_for(self, accelerator: Any, *, is_placed: bool | None) -> bool:
        reason = self._why_not(accelerator)
        if reason is not None:
            tell_once(
                f"Accelerate makes a plain DataLoader of this StorageDataLoader, without look-ahead, stats() and exact "
                f"resume: {reason}"
            )
            return False
        if accelerator.num_processes > 1:
            _refuse_other_shares(accelerator, self._shares)
            self._share_as(accelerator)
        is_placed = accelerator.device_placement if is_placed is None else is_placed
        self._placement = Placement(
            accelerator.device if is_placed else None, non_blocking=getattr(accelerator, "non_blocking", False)
        )
        return True

    def _why_not(self, accelerator: Any) -> str | None:
        if accelerator.distributed_type.name in _OTHER_LOADERS:
            return f"{accelerator.distributed_type.name} needs it"
        if accelerator.num_processes > 1 and self._shares == 1:
            return (
                "it has to share out the batches of your own sampler. Without sampler= and batch_sampler= the loader "
                "shares them out by itself"
            )
        return None

    @property
    def _shares(self) -> int:
        """The number of processes among which the sampler shares out the samples."""
        samplers = (self.sampler, getattr(self.batch_sampler, "sampler", None))
        return max((share_of(sampler) or (1,))[0] for sampler in samplers)

    def _share_as(self, accelerator: Any) -> None:
        """Share out the samples so that gathered results are in the order of the dataset, repeated ones last."""
        if hasattr(self.sampler, "run_length"):
            self.sampler.run_length = self.batch_size or 1
            if not accelerator.even_batches:
                self.sampler.even_batches = False
        if accelerator.dispatch_batches:
            tell_once("dispatch_batches=True is left out: each process reads its own part of the samples by itself")


class Placement(NamedTuple):
    """Where the batches of a prepared loader go; without a device they stay."""

    device: Any
    non_blocking: bool

    def __call__(self, batch: Any) -> Any:
        """Bring a batch there."""
        if self.device is None:
            return batch
        return import_module("accelerate.utils").send_to_device(batch, self.device, non_blocking=self.non_blocking)


class PreparedPass:
    """A pass over a prepared loader, which accelerators know of while it is iterated over.

    Args:
        loader: what the pass is over.
        placement: where its batches go.
        samples: how many samples are left for all ranks together, without repeated ones; None if all count.
    """

    def __init__(self, loader: Accelerated, placement: Placement, samples: int | None) -> None:
        self._loader = loader
        self._placement = placement
        self._remainder = -1 if samples is None else samples % loader.total_batch_size
        self._is_begun = False

    def begin(self) -> None:
        """Let accelerators know, at the first batch."""
        if not self._is_begun:
            self._is_begun = True
            self._loader.end_of_dataloader = False
            self._loader.remainder = self._remainder
            _gradient_state()._add_dataloader(self._loader)  # noqa: SLF001  as Accelerate's own loaders do

    def on_device(self, batch: Any, *, is_last: bool) -> Any:
        """A batch, on the device of the accelerator."""
        self._loader.end_of_dataloader = is_last
        return self._placement(batch)

    def end(self) -> None:
        """Let accelerators know that the iteration has ended."""
        if self._is_begun and "accelerate.state" in sys.modules:  # the interpreter drops the module at its end
            _gradient_state()._remove_dataloader(self._loader)  # noqa: SLF001  as Accelerate's own loaders do


def _gradient_state() -> Any:
    return import_module("accelerate.state").GradientState()


def refuse_to_share_again(ranks: int) -> None:
    """Check that Accelerate does not share out samples that are shared out already.

    Args:
        ranks: the number of processes among which the caller shares out its samples.

    Raises:
        RuntimeError: it does, and most samples would never be seen.
    """
    if ranks > 1 and _is_shared_by_accelerate():
        raise RuntimeError(
            f"this StorageSampler shares out the samples among {ranks} processes, and Accelerate does so once more: "
            f"of {ranks} samples {ranks - 1} would never be seen. Give accelerator.prepare() a StorageDataLoader; or "
            "let Accelerate alone share them out: StorageSampler(dataset, num_replicas=1, rank=0)"
        )


def _is_shared_by_accelerate() -> bool:
    """Whether the running code was called by one of Accelerate's loaders that share out batches."""
    loaders = sys.modules.get("accelerate.data_loader")
    if loaders is None:
        return False
    callers: Iterator[Any] = (frame.f_locals.get("self") for frame, _ in traceback.walk_stack(None))
    return any(
        (type(caller) is loaders.BatchSamplerShard and caller.num_processes > 1)
        or type(caller) is loaders.DataLoaderDispatcher
        for caller in callers
    )


def _accelerator_of(frame: FrameType) -> Any | None:
    """The accelerator whose method runs in a frame."""
    accelerate = sys.modules.get("accelerate")
    owner = frame.f_locals.get("self")
    return owner if accelerate is not None and isinstance(owner, accelerate.Accelerator) else None


def _refuse_other_shares(accelerator: Any, shares: int) -> None:
    """Check that each process may have a whole batch of its own.

    Raises:
        ValueError: it is not.
    """
    ranks = accelerator.num_processes
    if accelerator.split_batches:
        raise ValueError(
            "split_batches=True has one batch divided among the processes, and a StorageDataLoader gives each process "
            f"batches of its own: leave it out, and give the loader batch_size=N // {ranks}"
        )
    mesh = getattr(accelerator, "torch_device_mesh", None)
    shared = [name for name in getattr(mesh, "mesh_dim_names", None) or () if name in _PARTS_OF_A_MODEL]
    if shared and shares == ranks:
        raise ValueError(
            f"along {', '.join(shared)} of the device mesh the processes need the same samples, and a "
            "StorageDataLoader gives each process its own: give it sampler=StorageSampler(dataset, num_replicas=…, "
            "rank=…), with the number of groups that share samples, and the group of this process"
        )
