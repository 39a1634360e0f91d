"""A plan of coming uses gives up first what is needed last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ai4os_data.cache.plan import Plan

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
