"""The result of restore is a mapping that can be loaded from."""

from __future__ import annotations

import torch

from ai4os_data.checkpoint.names import AttemptName, CheckpointName
from ai4os_data.checkpoint.restored import Restored


def test_state_dict_that_was_the_whole_state_is_loaded_with_its_versions() -> None:
    """Without them a BatchNorm takes its state for one from before batches were counted."""
    model = torch.nn.BatchNorm1d(2)
    model.num_batches_tracked = torch.tensor(5)
    state = model.state_dict()
    restored = Restored(CheckpointName.new(AttemptName.new(1), 3), {}, {}, state, 0)
    assert restored._metadata == state._metadata  # type: ignore[attr-defined]
    target = torch.nn.BatchNorm1d(2)
    target.load_state_dict(restored)
    assert target.num_batches_tracked == 5
    plain = Restored(restored.name, {}, {}, dict(state), 0)
    assert plain._metadata is None
