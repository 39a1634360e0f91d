"""What a sample is made into: its bytes are decoded, labelled and transformed, always in this order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ai4os_data.datasets.decoding import as_bytes, as_path, decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from ai4os_data.datasets.decoding import Decoder
    from ai4os_data.datasets.sample import Sample
    from ai4os_data.datasets.targets import Targets


class Maker:
    """Makes ``x``, or ``(x, y)``, of a `Sample`.

    Args:
        decode: as for the dataset.
        transform: applied to ``x``.
        target_transform: applied to ``y``.

    Attributes:
        targets: the labels; None if there are none.
        gives_paths: whether a sample is the path of a local file.
        is_lazy: whether it may do without the whole of a large file in memory.
    """

    def __init__(
        self,
        decode: str | Decoder,
        transform: Callable[[Any], Any] | None,
        target_transform: Callable[[Any], Any] | None,
    ) -> None:
        self.transform = transform
        self.target_transform = target_transform
        self.targets: Targets | None = None
        self._decode = decoder(decode)
        self._has_own_decoder = callable(decode)
        self.gives_paths = self._decode is as_path
        self.is_lazy = self._has_own_decoder or self.gives_paths

    @property
    def gives_bytes(self) -> bool:
        """Whether a sample is the content of its file, as it is."""
        return self._decode is as_bytes and self.targets is None and self.transform is None

    @property
    def sees_samples(self) -> bool:
        """Whether a function of the user's own gets a `Sample`, and so may ask for siblings."""
        return self._has_own_decoder or (self.targets is not None and self.targets.function is not None)

    @property
    def may_draw(self) -> bool:
        """Whether something of the user's own has a part in making a sample, and so may draw random numbers."""
        return self.sees_samples or self.transform is not None or self.target_transform is not None

    def decoded(self, index: int, sample: Sample) -> tuple[Any, Any]:
        """``x`` and ``y``."""
        return self._decode(sample), self.targets.label(index, sample) if self.targets is not None else None

    def transformed(self, x: Any, y: Any) -> Any:
        """What a user gets."""
        if self.transform is not None:
            x = self.transform(x)
        if self.targets is None:
            return x
        return x, (y if self.target_transform is None else self.target_transform(y))
