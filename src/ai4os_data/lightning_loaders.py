"""The loaders of a Lightning training: they go on where the checkpoint says, whenever Lightning has set them up."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def load_left_states(trainer: Trainer) -> None:
    """Give the loaders of a training the states that Lightning has restored, and has not given them.

    It gives them as it sets the data up. ``trainer.estimated_stepping_batches`` in ``configure_optimizers`` has the data
    set up before the states are restored, and nothing looks at them afterwards.
    """
    loop = trainer.fit_loop
    if loop.restarting and loop._combined_loader_states_to_load and loop._data_fetcher is not None:
        loop._load_combined_loader_states()
        iter(loop._data_fetcher)
    loop._combined_loader_states_to_load = []  # those of the end of an epoch are no loader's that is made later
