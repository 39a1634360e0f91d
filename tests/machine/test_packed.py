"""Packed lists give back what was packed, in a few buffers, and read as lists do."""

from __future__ import annotations

import pickle
import random
import time
from typing import Any

import numpy as np
import pytest
import torch

from ai4os_data.machine.packed import (
    ChosenTexts,
    Dates,
    HexTexts,
    Numbers,
    Same,
    Table,
    Texts,
    packed_texts,
    packed_values,
    positions,
)
from ai4os_data.stores.base import Entry
from ai4os_data.stores.entries import ByKey, ChosenEntries, PackedEntries

ODD_NAMES = [
    "",
    "a",
    "a\0b",
    "é",
    "e\u0301",
    "\ud800",
    "\udcff",
    "\udcff\udcfe",
    "\ud83d",
    "\ude00",
    "\U0001f600",
    "zz",
]


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        ([], Same),
        (["same", "same"], Same),
        (["0a", "ff", "123", "", "00"], HexTexts),
        (["f" * 32, "0" * 32, "1" * 32], HexTexts),
        (["Tue, 24 Nov 2026 10:00:00 GMT", "", "Thu, 01 Jan 1970 00:00:00 GMT"], Dates),
        (["Tue, 24 Nov 2026 10:00:00 GMT", "Mon, 24 Nov 2026 10:00:00 GMT"], Texts),  # it was no Monday
        (["Tue, 24 Nov 2026 24:00:00 GMT", "x"], Texts),
        (["0A", "ff"], Texts),
        (["cat", "dog"] * 20, Table),
        (ODD_NAMES, Texts),
    ],
)
def test_texts_come_back_as_they_were(texts: list[str], kind: type) -> None:
    """Any text comes back, after a pickle too."""
    packed = packed_texts(texts)
    assert type(packed) is kind
    assert list(packed) == [packed[place] for place in range(len(texts))] == texts
    assert pickle.loads(pickle.dumps(packed)) == packed == texts  # noqa: S301  our own


def test_every_date_of_http_comes_back() -> None:
    """From 1970 on, whatever the weekday and the leap year."""
    import email.utils

    chance = random.Random(1)
    texts = [email.utils.formatdate(chance.randrange(1 << 32) - 90_000, usegmt=True) for _ in range(5000)]
    texts = [text for text in texts if "1969" not in text]
    packed = packed_texts(texts)
    assert isinstance(packed, Dates)
    assert list(packed) == texts


@pytest.mark.parametrize(
    ("values", "size"),
    [([0, 255], 1), ([256], 2), ([-1, 127], 1), ([-129], 2), ([1 << 32], 8), ([1 << 63], 8), ([0.5, -1.0], 8)],
)
def test_numbers_take_as_few_bytes_as_the_largest(values: list[Any], size: int) -> None:
    """They come back with their type."""
    packed = packed_values(values)
    assert isinstance(packed, Numbers)
    assert packed == values
    assert list(map(type, packed)) == list(map(type, values))
    assert len(pickle.dumps(packed)) - len(pickle.dumps(Numbers.of([]))) <= size * len(values) + 8


@pytest.mark.parametrize("values", [[True, False], [1, 2.0], [1 << 70], [None], [[1], [2]], [-1, 1 << 63]])
def test_other_values_stay_a_list(values: list[Any]) -> None:
    """Nothing is turned into a number or a text that was none."""
    packed = packed_values(values)
    assert type(packed) is list
    assert [(type(one), one) for one in packed] == [(type(one), one) for one in values]


def test_packed_lists_read_as_lists() -> None:
    """Index, slice, search, sum, compare, and what numpy and torch make of them."""
    numbers, texts = packed_values([3, 1, 2]), Texts.of(["b", "a", "c"])
    assert (numbers[-1], texts[-3], numbers[1:], texts[::-1]) == (2, "b", [1, 2], ["c", "a", "b"])
    assert "a" in texts
    assert (texts.index("c"), numbers.count(1), list(reversed(numbers))) == (2, 1, [2, 1, 3])
    assert texts + ["d"] == ["b", "a", "c", "d"]  # noqa: RUF005  the sum is what is tried
    assert ["d"] + texts == ["d", "b", "a", "c"]  # noqa: RUF005  the sum is what is tried
    assert ["b", "a", "c"] == texts  # noqa: SIM300  a list is asked first
    assert texts != ["b", "a"]
    assert texts != ("b", "a", "c")
    assert repr(texts) == "['b', 'a', 'c']"
    assert repr(Texts.of(list(map(str, range(1000))))) == "['0', '1', '2', … 1,000 in all]"
    assert np.array(numbers).tolist() == [3, 1, 2]
    assert np.asarray(numbers).dtype == np.int64
    assert torch.tensor(numbers).tolist() == [3, 1, 2]
    assert torch.arange(5.0)[numbers].tolist() == [3, 1, 2]
    with pytest.raises(IndexError):
        texts[3]
    with pytest.raises(IndexError):
        texts[-4]
    wrong: Any = "a"
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        texts[wrong]
    number: Any = np.int64(1)
    assert texts[number] == "a"


def test_place_of_a_key_is_found_as_in_a_list() -> None:
    """It is found between a beginning and an end, fast enough for each of many keys."""
    keys = [f"{number:06d}" for number in range(100_000)]
    packed = ChosenEntries.at_positions(PackedEntries.of([Entry(key, 1) for key in keys]), range(len(keys))).keys
    begin = time.process_time()
    assert [packed.index(key) for key in keys[::100]] == list(range(0, len(keys), 100))
    assert time.process_time() - begin < 1
    assert (packed.index("000007", 3, 9), packed.index("000007", -99_999)) == (7, 7)
    for wanted, among in (("x", ()), (7, ()), ("000007", (8,)), ("000007", (0, 7)), ("000007", (-5,))):
        with pytest.raises(ValueError, match="is not in the list"):
            packed.index(wanted, *among)


def test_search_finds_what_is_there_and_nothing_else() -> None:
    """The order of the bytes is that of the texts, for names that are no UTF-8 too."""
    chance = random.Random(2)
    names = sorted({"".join(chance.choices("ab/é\udc80\udcff\ud800\U0001f600", k=4)) for _ in range(500)})
    here, gone = names[::2], names[1::2]
    packed = Texts.of(here)
    assert [packed.find(name) for name in here] == list(range(len(here)))
    assert {packed.find(name) for name in gone} == {None}


def test_entries_come_back_sorted() -> None:
    """With and without ETags, dates, and in whatever order they came."""
    entries = [
        Entry("b", 1 << 40, "e", "Tue, 24 Nov 2026 10:00:00 GMT"),
        Entry("a", 0),
        Entry("ü\udcff", 5, None, "yesterday"),
        Entry("c", 7, "f" * 32),
    ]
    packed = PackedEntries.of(entries)
    assert list(packed) == [packed[place] for place in range(4)] == sorted(entries)
    by_key = ByKey(packed)
    assert dict(by_key) == {entry.key: entry for entry in entries}
    assert by_key.get("d") is None
    with pytest.raises(KeyError):
        by_key["d"]


def test_chosen_keys_are_the_chosen_ones() -> None:
    """In the user's order, repeated ones included; a pickle of few of many is small."""
    packed = PackedEntries.of([Entry(f"{number:05d}", number) for number in range(10_000)])
    chosen = ChosenEntries.at_positions(packed, [9, 3, 3, 5000])
    assert chosen.keys == ["00009", "00003", "00003", "05000"]
    assert [entry.size_bytes for entry in chosen] == [9, 3, 3, 5000]
    assert "00003" in chosen.keys
    assert "00004" not in chosen.keys
    assert len(pickle.dumps(chosen.keys)) < 500
    again = pickle.loads(pickle.dumps(chosen.keys))  # noqa: S301  our own
    assert again == chosen.keys
    assert all(key in again for key in chosen.keys)
    assert [again.index(key) for key in again] == [0, 1, 1, 3]
    whole = ChosenEntries.at_positions(packed, range(10_000))
    assert whole.positions == range(10_000)
    assert isinstance(whole.keys, ChosenTexts)
    assert positions([0, 2, 1], 3) == positions([0, 2, 1], 3) != range(3)
