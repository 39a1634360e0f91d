"""Small trainings on a card, one for each way in which work reaches it, and how to compare their states.

A ballast of many megabytes changes with each step: a copy that begins too early, or is not over when `save` returns,
takes some of it from another step.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WIDTH = 256
_BATCH = 64
_INPUTS = 32
_BUSY_CYCLES = 20_000_000  # some ten milliseconds, in which the host runs ahead of the card


class Way(NamedTuple):
    """One way in which a training puts its work on a card.

    Attributes:
        name: as the report calls it.
        optimizer: options of Adam: ``fused``, ``capturable``, ``foreach``.
        is_half: whether it computes in fp16, with a GradScaler.
        stream: ``"default"``; ``"side"``, if `save` is called on the same stream; ``"beside"``, if it is not.
        is_graph: whether a step is a CUDA graph.
    """

    name: str
    optimizer: Mapping[str, Any]
    is_half: bool = False
    stream: str = "default"
    is_graph: bool = False

    @property
    def needs_cuda(self) -> bool:
        """Whether this way needs a card."""
        return self.is_half or self.is_graph or self.stream != "default" or bool(self.optimizer.get("capturable"))


WAYS = (
    Way("default stream", {}),
    Way("foreach optimizer", {"foreach": True}),
    Way("fused optimizer", {"fused": True}),
    Way("capturable optimizer", {"capturable": True}),
    Way("fp16 with GradScaler", {}, is_half=True),
    Way("fp16 with GradScaler, fused optimizer", {"fused": True}, is_half=True),
    Way("side stream, saved on it", {}, stream="side"),
    Way("side stream, saved beside it", {}, stream="beside"),
    Way("CUDA graph", {"capturable": True}, is_graph=True),
)


class Training:
    """A model, its optimizer, and a ballast.

    Args:
        way: how its work reaches the card.
        device: the card, or ``cpu``.
        ballast_bytes: what changes beside the model in each step.
        seed: of the weights.
    """

    def __init__(self, way: Way, device: str, ballast_bytes: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self._way = way
        self._is_cuda = device == "cuda"
        self.model = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Dropout(0.2), nn.Linear(WIDTH, WIDTH)
        ).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, **way.optimizer)
        self.scaler = torch.amp.GradScaler(device, enabled=way.is_half)
        self.ballast = torch.zeros(ballast_bytes // 4, device=device)
        # On the card from the start: a copy of unpinned memory would let the host wait for it.
        self._inputs = torch.randn(_INPUTS, _BATCH, WIDTH, generator=torch.Generator().manual_seed(0)).to(device)
        self._input = torch.empty(_BATCH, WIDTH, device=device)
        self._loss = torch.zeros((), device=device)
        self._stream = torch.cuda.Stream() if self._is_cuda and way.stream != "default" else None  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None

    def state(self) -> dict[str, Any]:
        """What is saved."""
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "scaler": self.scaler,
            "ballast": self.ballast,
        }

    def step(self, number: int) -> None:
        """Start one step; the host does not wait for it."""
        with self._on_stream():
            self._input.copy_(self._inputs[number % _INPUTS])
            if not (self._way.is_graph and self._is_cuda):
                self._work()
                return
            if self._graph is None:
                self._graph = self._captured()
            self._graph.replay()

    def loss(self) -> float:
        """The loss of the last step."""
        return float(self._loss)

    def keep_busy(self) -> None:
        """Give the card work, so that it falls behind the host."""
        if self._is_cuda:
            with self._on_stream():
                torch.cuda._sleep(_BUSY_CYCLES)  # type: ignore[no-untyped-call]  # noqa: SLF001  nothing else only waits

    def expected(self) -> dict[str, torch.Tensor]:
        """Copies, made on the card, of the state after all steps that were started."""
        with self._on_stream():
            return {name: tensor.clone() for name, tensor in flat(self.state()).items()}

    @contextlib.contextmanager
    def where_saved(self) -> Iterator[None]:
        """The stream on which `save` is called."""
        if self._way.stream == "side":
            with self._on_stream():
                yield
        else:
            yield

    def _work(self) -> None:
        self.optimizer.zero_grad(set_to_none=not self._way.is_graph)
        device = "cuda" if self._is_cuda else "cpu"
        with torch.autocast(device, dtype=torch.float16, enabled=self._way.is_half):
            loss = self.model(self._input).square().mean()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._loss.copy_(loss.detach())
        self.ballast.add_(1)

    def _captured(self) -> torch.cuda.CUDAGraph:
        """A graph of one step. The warm-up steps that PyTorch asks for are undone."""
        before = {name: tensor.clone() for name, tensor in flat(self.state()).items()}
        random = torch.cuda.get_rng_state()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._work()
        after = flat(self.state())
        for name, tensor in before.items():
            after[name].detach().copy_(tensor)
        torch.cuda.set_rng_state(random)
        return graph

    def _on_stream(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def flat(state: Any, place: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a state by their paths; numbers become tensors."""
    if callable(getattr(state, "state_dict", None)):
        return flat(state.state_dict(), place)
    if isinstance(state, torch.Tensor):
        return {place: state}
    if isinstance(state, (bool, int, float)):
        return {place: torch.tensor(state)}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, (list, tuple)) else ()
    found: dict[str, torch.Tensor] = {}
    for key, value in items:
        found |= flat(value, f"{place}/{key}")
    return found


def differences(saved: Any, expected: Mapping[str, torch.Tensor]) -> list[str]:
    """The paths at which a state differs in any bit from the expected one."""
    found = flat(saved)
    missing = sorted(found.keys() ^ expected.keys())
    return missing + [
        place
        for place in sorted(found.keys() & expected.keys())
        if not torch.equal(_bits(found[place]), _bits(expected[place]))
    ]


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
