"""A plan of coming uses gives up first what is needed last."""

from __future__ import annotations

import random
import time
import tracemalloc
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from ai4os_data.cache.plan import Plan, Uses

NAMES = st.sampled_from("abcdefgh")


def plan_of(this_epoch: str | list[str], next_epoch: str | list[str] = "") -> Plan:
    """Return the plan for these uses."""
    return Plan(lambda: ([[name] for name in this_epoch], [[name] for name in next_epoch]))


def test_next_use_moves_on_with_the_position() -> None:
    """First in this epoch, then in the next one, then behind all; what is in no epoch has none."""
    plan = plan_of("aba", "ba")
    assert [plan.next_use(name) for name in "abc"] == [0, 1, None]
    plan.advance(1)
    assert [plan.next_use(name) for name in "ab"] == [2, 1]
    plan.advance(3)
    assert [plan.next_use(name) for name in "ab"] == [4, 3]
    plan.advance(2)
    assert plan.position == 3, "it never goes back"
    plan.advance(5)
    assert plan.next_use("a") == 5


def test_furthest_next_use_goes_first() -> None:
    """Of what was used in this epoch; what is still to be used in it stays."""
    plan = plan_of("abcd", "cabd")
    assert list(plan.victims("abcd", "a")) == []
    plan.advance(3)
    assert list(plan.victims("abcd", "d")) == ["b", "a", "c"]


def test_what_is_used_earlier_stays() -> None:
    """Room for an entry is made by what is used after it alone, and never for an entry that is in no epoch."""
    plan = plan_of("abc", "bca")
    plan.advance(3)
    assert list(plan.victims("abc", "x")) == []
    assert list(plan.victims("abc", "b")) == ["a", "c"]


def test_what_is_not_held_is_passed_over_until_it_was_used() -> None:
    """An entry that was fetched for its use can go after it."""
    plan = plan_of("abc", "bca")
    plan.advance(1)
    assert list(plan.victims("", "b")) == []
    plan.advance(2)
    assert list(plan.victims("ab", "c")) == ["b"], "the other was named, and not there, before"


def test_victim_that_was_in_use_is_named_again() -> None:
    """After it was kept."""
    plan = plan_of("abc")
    plan.advance(2)
    assert sorted(plan.victims("abc", "c")) == ["a", "b"]
    assert list(plan.victims("abc", "c")) == []
    plan.keep("b")
    assert list(plan.victims("abc", "c")) == ["b"]


def test_entries_of_one_turn_are_used_at_once() -> None:
    """They have one place, and do not make room for each other."""
    plan = Plan(lambda: ([["a", "b"], ["c"]], [["d", "a"]]))
    assert list(plan.victims("abcd", "a")) == ["d"]
    plan.advance(1)
    assert plan.next_use("a") == 2
    assert list(plan.victims("abcd", "c")) == ["b", "a"]


@given(st.lists(st.integers(0, 5), max_size=12), st.lists(st.integers(0, 5), max_size=12), st.integers(0, 12))
def test_uses_by_number_are_those_by_name(this: list[int], following: list[int], position: int) -> None:
    """Also where one digest has several numbers, and some have no use."""
    names = "abcdba"
    by_number = Plan(lambda: Uses(names, this, following))
    by_name = plan_of([names[number] for number in this], [names[number] for number in following])
    for plan in (by_number, by_name):
        plan.advance(min(position, len(this)))
    for name in "abcde":
        assert by_number.next_use(name) == by_name.next_use(name)
    for name in "abcde":
        assert list(by_number.victims(names, name)) == list(by_name.victims(names, name))


def test_plan_of_many_files_is_made_quickly() -> None:
    """Three hundred thousand files take a tenth of a second, and no more room than their own digests."""
    count = 300_000
    names = [f"{number:032x}" for number in range(count)]
    chance = random.Random(1)
    this, following = (chance.sample(range(count), count) for _ in range(2))
    plan = Plan(lambda: Uses(names, this, following))
    tracemalloc.start()
    begun = time.process_time()
    plan.make()
    took_s = time.process_time() - begun
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plan.next_use(names[this[7]]) == 7
    plan.advance(count // 2)
    nearest = names[following[0]]
    assert list(islice(plan.victims(names[:0], nearest), 3)) == []
    assert took_s < 1.0, "it is a tenth of that"
    assert peak_bytes < 40_000_000


@given(st.lists(NAMES, min_size=1, max_size=20), st.lists(NAMES, max_size=20), st.data())
def test_victims_are_ranked_by_what_is_still_to_come(
    this: list[str], following: list[str], data: st.DataObject
) -> None:
    """As a search along the rest of both epochs finds it, wherever the plan was first asked."""
    plan = plan_of(this, following)
    whole = this + following
    first, position = sorted(data.draw(st.integers(0, len(this))) for _ in range(2))
    plan.advance(first)
    assert plan.next_use(this[0]) is not None
    plan.advance(position)
    room_for = data.draw(st.sampled_from(whole))

    def distance(name: str) -> int:
        return whole.index(name, position) if name in whole[position:] else len(whole)

    held = data.draw(st.sets(NAMES))
    soonest = max(distance(room_for), len(this) - 1)
    expected = {name for name in held & set(whole) - {room_for} if distance(name) > soonest}
    victims = list(plan.victims(held, room_for))
    assert set(victims) == expected
    assert [distance(name) for name in victims] == sorted(map(distance, expected), reverse=True)
