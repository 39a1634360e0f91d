"""A staged state is an independent, plain copy, in memory that is used again."""

from __future__ import annotations

import enum
import io
import time
from collections import Counter, OrderedDict, defaultdict, namedtuple
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ai4os_data import errors
from ai4os_data.checkpoint.staging import Staging, StateCopy, with_arrays

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Pair = namedtuple("Pair", "a b")  # noqa: PYI024  as users still write them

PACKED = [torch.bits8, torch.bits4x2, torch.bits1x8, torch.bits2x4]
PACKED += [
    getattr(torch, name) for name in ("float8_e8m0fnu", "float4_e2m1fn_x2") if hasattr(torch, name)
]  # from 2.7 on


def stage(state: Any, staging: Staging | None = None) -> StateCopy:
    """Stage a state, and release the buffers."""
    staging = staging or Staging()
    staged = staging.stage(state)
    staging.release()
    return staged


def through_a_file(staged: StateCopy) -> Any:
    """A staged state, loaded from a file without running its code."""
    file = io.BytesIO()
    torch.save(staged.state, file)
    file.seek(0)
    return with_arrays(torch.load(file, weights_only=True), staged.arrays)


def test_objects_with_a_state_dict_come_out_as_it() -> None:
    """Their states have equal values, and share no memory with them."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    scaler = torch.amp.GradScaler("cpu")
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
    loaded = through_a_file(stage(state))
    for name, value in model.state_dict().items():
        assert torch.equal(loaded["model"][name], value)
        assert loaded["model"][name].data_ptr() != value.data_ptr()
    assert torch.equal(loaded["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    torch.optim.Adam(torch.nn.Linear(3, 4).parameters())
    scheduler.load_state_dict(loaded["scheduler"])
    scaler.load_state_dict(loaded["scaler"])


def test_second_state_of_the_same_form_takes_no_new_memory() -> None:
    """The buffers are used again, even if the tensors have moved."""
    staging = Staging()
    first = stage({"a": torch.zeros(1000), "b": [torch.ones(5, 5)]}, staging)
    places = first.state["a"].data_ptr(), first.state["b"][0].data_ptr()
    second = stage({"a": torch.full((1000,), 7.0), "b": [torch.full((5, 5), 8.0)]}, staging)
    assert (second.state["a"].data_ptr(), second.state["b"][0].data_ptr()) == places
    assert second.state["a"].unique().tolist() == [7.0]
    assert second.state["b"][0].unique().tolist() == [8.0]


def test_state_of_another_form_gets_the_memory_that_it_needs() -> None:
    """Tensors may be gone, new, larger or of another type."""
    staging = Staging()
    stage({"a": torch.zeros(1000), "b": torch.zeros(10)}, staging)
    staged = stage({"b": torch.arange(12), "c": torch.ones(2, dtype=torch.bfloat16), "d": torch.zeros(0)}, staging)
    assert staged.state["b"].tolist() == list(range(12))
    assert staged.state["c"].dtype == torch.bfloat16
    assert staged.state["d"].shape == (0,)
    assert staged.size_bytes == 12 * 8 + 2 * 2


def test_next_state_waits_until_the_last_is_released() -> None:
    """A copy that is still being written is not overwritten."""
    staging = Staging()
    staged = staging.stage({"a": torch.zeros(10)})
    assert staged.waited_s < 0.1
    assert not staging.wait_until_free(0.05)
    staging.release()
    assert staging.wait_until_free(0.05)


def test_tensors_that_share_a_storage_share_one_afterwards() -> None:
    """Tied weights stay tied, in memory and in the file, and are copied once."""
    base = torch.arange(100.0)
    staged = stage({"whole": base, "tied": base.view(10, 10), "part": base[20:30], "other": torch.zeros(3)})
    assert staged.size_bytes == 412
    loaded = through_a_file(staged)
    loaded["whole"][25] = -1
    assert loaded["tied"][2, 5] == -1
    assert loaded["part"].tolist() == [20, 21, 22, 23, 24, -1, 26, 27, 28, 29]


def test_view_takes_no_more_than_it_spans() -> None:
    """A few rows of a large tensor are copied without the rest."""
    staged = stage({"rows": torch.arange(1_000_000.0)[500:510]})
    assert staged.size_bytes == 40
    assert staged.state["rows"].tolist() == list(range(500, 510))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24.0).reshape(4, 6).t(),
        torch.arange(24.0).reshape(4, 6)[:, ::2],
        torch.arange(48.0).reshape(2, 3, 4, 2).to(memory_format=torch.channels_last),
        torch.tensor([3.0]).expand(1000, 1000),
        torch.tensor(5),
        torch.zeros(0, 3),
        torch.tensor([1 + 2j, 3 - 4j]).conj(),
        torch.tensor([[1, 0], [0, 2]]).to_sparse(),
        torch.tensor([1.0, 2.0], dtype=torch.float16),
        torch.nn.Parameter(torch.ones(3)),
        torch.ones(3, requires_grad=True) * 2,
        torch.arange(4.0)[::3].expand(2, 2),
        torch.arange(10.0).unfold(0, 3, 1),
    ],
    ids=[
        "transposed",
        "strided",
        "channels",
        "expanded",
        "scalar",
        "empty",
        "conj",
        "sparse",
        "half",
        "param",
        "grad",
        "overlapping",
        "unfolded",
    ],
)
def test_tensor_of_any_layout_comes_back_with_its_values(tensor: torch.Tensor) -> None:
    """Each is staged twice, the second time into existing buffers."""
    staging = Staging()
    for _ in range(2):
        staged = stage({"x": tensor}, staging)
        loaded = through_a_file(staged)["x"]
        assert loaded.dtype == tensor.dtype
        assert torch.equal(loaded.to_dense(), tensor.detach().to_dense())
        assert not loaded.requires_grad
    assert staged.size_bytes < 1000


def test_changes_after_staging_do_not_show() -> None:
    """Training changes its tensors in place, and the copy does not change."""
    weights = torch.zeros(1000)
    numbers = np.zeros(5)
    staged = stage({"w": weights, "n": numbers, "list": [weights]})
    weights += 1
    numbers += 1
    assert staged.state["w"].sum() == 0
    assert through_a_file(staged)["n"].sum() == 0


def test_arrays_come_back_as_arrays_wherever_they_stood() -> None:
    """Arrays come back from any container, key and memory order; NumPy's numbers become Python's."""
    state = {
        "a": np.arange(6).reshape(2, 3)[:, ::-1],
        "b": [1, (np.array([True]), {7: np.array([1.5], dtype=np.float32)})],
        ("x", 1): np.zeros((2, 0)),
        "n": np.float64(2.5),
        np.int64(3): "key",
    }
    loaded = through_a_file(stage(state))
    assert loaded["a"].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert isinstance(loaded["a"], np.ndarray)
    assert loaded["b"][1][0].dtype == np.bool_
    assert loaded["b"][1][1][7].dtype == np.float32
    assert isinstance(loaded["x", 1], np.ndarray)
    assert (type(loaded["n"]), loaded["n"], loaded[3]) == (float, 2.5, "key")


class Color(enum.IntEnum):
    """A number with a name."""

    RED = 3


def test_primitives_and_containers_come_back_as_they_were() -> None:
    """Numbers of other classes become plain ones, which load without running code."""
    state = OrderedDict(
        a=[1, 2.5, 1 + 2j, "s", b"b", None, True],
        b=(1, (2,)),
        c={1, 2},
        d=Color.RED,
        e=torch.Size([2, 3]),
        f=torch.float16,
        g=torch.device("cpu"),
        h={True: 1, None: 2, 2.5: 3},
    )
    loaded = through_a_file(stage(state))
    assert type(loaded) is OrderedDict
    assert loaded == state
    assert type(loaded["d"]) is int


@pytest.mark.parametrize(
    ("state", "where"),
    [
        ({"a": [1, {"b": object()}]}, r"state\['a'\]\[1\]\['b'\] is a builtins.object"),
        ({"f": lambda: 1}, r"state\['f'\] is a builtins.function"),
        ({"a": np.array(["x"])}, r"state\['a'\] is an array of <U1"),
        ({"a": torch.zeros(3, device="meta")}, r"state\['a'\] is on the meta device"),
        ({object(): 1}, "has the key"),
        ({"n": np.longdouble(1)}, r"state\['n'\] is a numpy.longdouble, which no plain number holds"),
        ({"n": np.datetime64("2020-01-01T00:00:00", "ns")}, r"state\['n'\] is a numpy.datetime64"),
        ({np.longdouble(1): 1}, "is a numpy.longdouble"),
        ({"n": [1, 1 << 2039]}, r"state\['n'\]\[1\] is a number of 2040 bits"),
        ({"n": {-(1 << 5000): 1}}, r"state\['n'\] is a number of 5001 bits"),
        (
            {"a": np.ma.array([1.0, 2.0], mask=[False, True])},
            r"state\['a'\] is a masked array.* save its \.data and its \.mask",
        ),
        ({"m": torch.ones(2, 2).to_mkldnn()}, r"state\['m'\] has the layout torch._mkldnn: save x.to_dense\(\)"),
        ({"l": torch.nn.LazyLinear(3)}, r"state\['l'\]\['weight'\] has no shape yet"),
    ],
)
def test_what_is_not_plain_is_refused_by_its_path(state: Any, where: str) -> None:
    """The error comes before any copy, and is a TypeError too."""
    staging = Staging()
    with pytest.raises(errors.StateError, match=where) as caught:
        staging.stage(state)
    assert isinstance(caught.value, TypeError)
    assert staging.wait_until_free(0.05)


def test_container_that_contains_itself_is_refused() -> None:
    """The walk ends; a container that stands in two places is accepted."""
    ring: list[Any] = [1]
    assert stage({"a": ring, "b": ring}).state == {"a": [1], "b": [1]}
    ring.append(ring)
    with pytest.raises(errors.StateError, match=r"state\['a'\]\[1\] contains itself"):
        Staging().stage({"a": ring})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensor_is_refused(layout: torch.layout) -> None:
    """Some versions of torch cannot load one with weights_only=True."""
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout)
    with pytest.raises(errors.StateError, match=r"state\['x'\] is a nested tensor: save list\(x.unbind\(\)\)"):
        Staging().stage({"x": nested})


def test_largest_number_comes_back() -> None:
    """A number with one bit more, which torch.load refuses, is refused by save."""
    largest = (1 << 2039) - 1
    assert through_a_file(stage({"a": largest, "b": [-largest, True], largest: {1: largest}})) == {
        "a": largest,
        "b": [-largest, True],
        largest: {1: largest},
    }


class Versioned(torch.nn.Module):
    """A module that loads the state of an older version of itself in another way."""

    _version = 7

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.loaded_version: int | None = None

    def _load_from_state_dict(self, state_dict: Any, prefix: str, metadata: dict[str, Any], *more: Any) -> None:
        self.loaded_version = metadata.get("version")
        super()._load_from_state_dict(state_dict, prefix, metadata, *more)


def test_module_finds_the_version_that_it_was_saved_with() -> None:
    """The version is an attribute of the state_dict, and passes through memory and file."""
    model = torch.nn.Sequential(Versioned(), torch.nn.BatchNorm1d(2))
    staged = stage({"model": model})
    assert staged.state["model"]._metadata == model.state_dict()._metadata  # type: ignore[attr-defined]
    loaded = through_a_file(staged)["model"]
    target = torch.nn.Sequential(Versioned(), torch.nn.BatchNorm1d(2))
    target.load_state_dict(loaded)
    assert target[0].loaded_version == 7


def test_versions_hold_primitives_alone() -> None:
    """A tensor among the versions would be neither copied nor counted."""
    state = OrderedDict(a=1)
    vars(state)["_metadata"] = {"": {"version": torch.ones(1)}}
    with pytest.raises(errors.StateError, match=r"state\['m'\]\['_metadata'\] holds a tensor"):
        Staging().stage({"m": state})


def test_buffers_are_those_of_an_ordinary_training() -> None:
    """Buffers work in any mode, whatever the mode of the first save was."""
    staging = Staging()
    weights = torch.ones(4)
    with torch.inference_mode():
        made_there = torch.ones(4)
        assert torch.equal(stage({"x": weights, "y": made_there}, staging).state["x"], weights)
    weights += 1
    staged = stage({"x": weights, "y": made_there}, staging)
    assert staged.state["x"].tolist() == [2.0] * 4
    assert not staged.state["x"].is_inference()


def test_buffers_are_in_host_memory_whatever_the_default_device_is() -> None:
    """On another device values would be lost, or take the training's memory."""
    weights, shared = torch.ones(4), torch.arange(10.0)
    with torch.device("meta"):
        staged = stage({"x": weights, "y": [shared[2:4], shared[3:5]], "z": weights.to_sparse()})
    assert staged.state["x"].tolist() == [1.0] * 4
    assert [part.tolist() for part in staged.state["y"]] == [[2.0, 3.0], [3.0, 4.0]]
    assert staged.state["z"].to_dense().tolist() == [1.0] * 4


def test_containers_of_classes_of_their_own_become_plain_and_that_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """OrderedDict and Counter stay, on which schedulers rely."""
    state = {
        "pair": Pair(1, torch.ones(1)),
        "default": defaultdict(list, {1: [2]}),
        "frozen": [frozenset([1]), frozenset([(1, 2)])],
        "counter": Counter("aab"),
        "ordered": OrderedDict(b=1, a=torch.ones(1)),
    }
    staging = Staging()
    loaded = through_a_file(stage(state, staging))
    assert [type(value) for value in loaded.values()] == [tuple, dict, list, Counter, OrderedDict]
    assert loaded["pair"] == (1, torch.ones(1))
    assert (loaded["default"], loaded["frozen"]) == ({1: [2]}, [{1}, {(1, 2)}])
    assert loaded["counter"] == Counter("aab")
    assert list(loaded["ordered"]) == ["b", "a"]
    told = [record.getMessage() for record in caplog.records]
    assert [message.split(", and will")[0] for message in told] == [
        "state['pair'] is a Pair",
        "state['default'] is a defaultdict",
        "state['frozen'][0] is a frozenset",
    ]
    stage(state, staging)
    assert len(caplog.records) == 3


@pytest.mark.parametrize(
    "made",
    [
        lambda: list(range(1_000_000)),
        lambda: {number: str(number) for number in range(500_000)},
        lambda: {"a": [tuple(range(500_000)), [0.5] * 500_000]},
    ],
)
def test_many_numbers_cost_little(made: Callable[[], Any]) -> None:
    """They are checked by class and copied at once; one by one they would take 0.4 s."""
    state = made()
    times = []
    for _ in range(3):
        begun = time.thread_time()
        staged = stage(state)
        times.append(time.thread_time() - begun)
    assert staged.state == state
    assert staged.state is not state
    assert min(times) < 0.2


def test_size_counts_what_is_no_tensor() -> None:
    """The limit of a spool counts strings and numbers too."""
    tensor = torch.zeros(10)
    assert stage({"x": tensor, "s": "y" * 1000, "n": 1}).size_bytes == 1040
    state = {"order": list(range(100_000)), "names": {f"file-{number:06}": number for number in range(10_000)}}
    staged = stage(state)
    file = io.BytesIO()
    torch.save(staged.state, file)
    assert 0.7 < staged.size_bytes / file.tell() < 1.3


@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize("sign", ["int", "uint"])
def test_types_below_a_byte_that_torch_does_not_copy_are_named(sign: str, bits: int) -> None:
    """The error has the path and what to save instead, also for empty tensors."""
    dtype = getattr(torch, f"{sign}{bits}")
    for size in (0, 6):
        weight = torch.zeros(size, dtype=torch.uint8).view(dtype)
        with pytest.raises(errors.StateError, match=rf"state\['w'\]\[1\] is of the type {dtype}.*view\(torch.uint8\)"):
            Staging().stage({"w": [1, weight]})
        with pytest.raises(errors.StateError, match="is of the type"):
            Staging().stage({"w": torch.nn.ParameterList([torch.nn.Parameter(weight, requires_grad=False)])})


@pytest.mark.parametrize("dtype", PACKED)
@pytest.mark.parametrize("shape", ["whole", "part", "turned", "spread"])
def test_packed_types_that_torch_copies_come_back(dtype: torch.dtype, shape: str, tmp_path: Path) -> None:
    """They come back to the byte, also as parts and in other orders."""
    whole = torch.arange(24, dtype=torch.uint8).reshape(4, 6)
    bytes_ = {"whole": whole, "part": whole[1:, ::2], "turned": whole.t(), "spread": whole[0].expand(3, 6)}[shape]
    staged = Staging().stage({"w": whole.view(dtype) if shape == "whole" else bytes_.view(dtype)})
    torch.save(staged.state, tmp_path / "x.pt")
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)["w"]
    assert loaded.dtype == dtype
    assert torch.equal(loaded.view(torch.uint8), bytes_)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_quantized_tensors_come_back_or_are_named() -> None:
    """Those that torch copies come back, and the others are refused by name."""
    values = torch.randn(4, 6)
    scales, zeros = torch.ones(4).double(), torch.zeros(4).long()
    for good in (
        torch.quantize_per_tensor(values, 0.1, 3, torch.quint8),
        torch.quantize_per_channel(values, scales, zeros, 0, torch.qint8),
    ):
        assert torch.equal(Staging().stage({"q": good}).state["q"].int_repr(), good.int_repr())
    for bad in (
        torch.quantize_per_channel(values, torch.ones(4), torch.zeros(4), 0, torch.quint8),
        torch.quantize_per_channel(values, torch.ones(4), torch.zeros(4), 0, torch.quint4x2),
    ):
        with pytest.raises(errors.StateError, match=r"state\['q'\] is quantized by .*save x.dequantize\(\)"):
            Staging().stage({"q": bad})
