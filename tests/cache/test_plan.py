"""A plan keeps what an epoch still needs, and gives up first what was used first."""

from __future__ import annotations

import random
import time
import tracemalloc
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai4os_data.cache.plan import Plan, Uses

NAMES = st.sampled_from("abcdefgh")


def plan_of(*turns: str) -> Plan:
    """Return the plan for an epoch whose turns use these entries, one letter each."""
    return Plan(lambda: Uses.of_turns([list(turn) for turn in turns]))


def test_an_entry_is_needed_until_its_last_use() -> None:
    """An entry is needed until its last use; one that the epoch does not use is never needed."""
    plan = plan_of(*"aba")
    assert [plan.is_needed(name) for name in "abc"] == [True, True, False]
    plan.advance(2)
    assert [plan.is_needed(name) for name in "ab"] == [True, False]
    plan.advance(1)
    assert plan.position == 2, "it never goes back"
    plan.advance(3)
    assert not plan.is_needed("a")


def test_what_was_used_first_goes_first() -> None:
    """An entry that the epoch still needs stays, although it was used before all others."""
    plan = plan_of(*"abcad")
    assert list(plan.victims("abcd", "a")) == []
    plan.advance(3)
    assert list(plan.victims("abcd", "d")) == ["b", "c"]
    plan.advance(4)
    assert list(plan.victims("abcd", "d")) == ["a"]


@pytest.mark.parametrize("room_for", ["x", "a"])
def test_nothing_goes_for_what_is_not_needed(room_for: str) -> None:
    """Nothing is evicted for an entry of another loader, or for one after its last use."""
    plan = plan_of(*"abc")
    plan.advance(2)
    assert list(plan.victims("abc", room_for)) == []
    assert list(plan.victims("abc", "c")) == ["a", "b"]


def test_what_is_not_held_is_passed_over() -> None:
    """An entry that was fetched for its use can go after it."""
    plan = plan_of(*"abc")
    plan.advance(1)
    assert list(plan.victims("", "b")) == []
    plan.advance(2)
    assert list(plan.victims("ab", "c")) == ["b"], "the other was named, and not there, before"


def test_victim_that_was_in_use_is_named_again() -> None:
    """A victim that was in use is named again once, also if the search ended before it."""
    plan = plan_of(*"abcd")
    plan.keep("a")
    plan.advance(3)
    assert list(plan.victims("abc", "d")) == ["a", "b", "c"]
    assert list(plan.victims("abc", "d")) == []
    for name in "bbcdx":
        plan.keep(name)
    (first,) = islice(plan.victims("abcd", "d"), 1)
    (second,) = plan.victims("abcd", "d")
    assert {first, second} == {"b", "c"}


def test_entries_of_one_turn_are_used_at_once() -> None:
    """Entries of one turn do not make room for each other."""
    plan = plan_of("ab", "c", "", "a")
    assert list(plan.victims("abcd", "a")) == []
    plan.advance(1)
    assert list(plan.victims("abcd", "c")) == ["b"]
    plan.advance(3)
    assert list(plan.victims("abcd", "a")) == ["c"]
    assert not plan_of().is_needed("a")


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(0, 12))
def test_uses_by_number_are_those_by_name(numbers: list[int], position: int) -> None:
    """Uses by number give the same victims, also if a digest has several numbers or a number no use."""
    names = "abcdba"
    by_number = Plan(lambda: Uses(names, numbers))
    by_name = plan_of(*(names[number] for number in numbers))
    for plan in (by_number, by_name):
        plan.advance(min(position, len(numbers)))
    for name in "abcde":
        assert by_number.is_needed(name) == by_name.is_needed(name)
        assert list(by_number.victims(names, name)) == list(by_name.victims(names, name))


def test_plan_of_many_files_is_made_quickly() -> None:
    """Three hundred thousand files take a tenth of a second, and no more room than their own digests."""
    count = 300_000
    names = [f"{number:032x}" for number in range(count)]
    order = random.Random(1).sample(range(count), count)
    plan = Plan(lambda: Uses(names, order))
    tracemalloc.start()
    begun = time.process_time()
    plan.make()
    took_s = time.process_time() - begun
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    plan.advance(count // 2)
    assert [plan.is_needed(names[order[turn]]) for turn in (count // 2 - 1, count // 2)] == [False, True]
    assert list(islice(plan.victims(names[:0], names[order[-1]]), 3)) == []
    assert took_s < 1.0, "it is a tenth of that"
    assert peak_bytes < 40_000_000


@given(st.lists(NAMES, min_size=1, max_size=20), st.data())
def test_victims_are_what_was_used_and_is_not_needed(order: list[str], data: st.DataObject) -> None:
    """Victims are those that a plain search along the epoch finds, in order, wherever the plan is first asked."""
    plan = plan_of(*order)
    first, position = sorted(data.draw(st.integers(0, len(order))) for _ in range(2))
    plan.advance(first)
    assert plan.is_needed(order[0]) == (order[0] in order[first:])
    plan.advance(position)
    room_for = data.draw(st.sampled_from(order))
    held = data.draw(st.sets(NAMES))
    last_uses = {name: turn for turn, name in enumerate(order)}
    used = [name for name in sorted(last_uses, key=last_uses.__getitem__) if last_uses[name] < position]
    expected = [name for name in used if name in held] if last_uses[room_for] >= position else []
    assert list(plan.victims(held, room_for)) == expected
