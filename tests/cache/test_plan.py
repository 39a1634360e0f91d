"""A plan of coming uses gives up first what is needed last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ai4os_data.cache.plan import Plan

NAMES = st.sampled_from("abcdefgh")


def test_next_use_moves_on_with_the_position() -> None:
    """First in this epoch, then in the next one, then nowhere."""
    plan = Plan(["a", "b", "a"], ["b", "a"])
    assert [plan.next_use(name) for name in "abc"] == [0, 1, None]
    plan.advance(1)
    assert [plan.next_use(name) for name in "ab"] == [2, 1]
    plan.advance(3)
    assert [plan.next_use(name) for name in "ab"] == [4, 3]
    plan.advance(2)
    assert plan.position == 3, "it never goes back"
    plan.advance(5)
    assert plan.next_use("a") is None
    assert ("a" in plan, "c" in plan, len(plan)) == (True, False, 5)


def test_furthest_next_use_goes_first() -> None:
    """What is in no plan goes before it, the one that was held first before others."""
    plan = Plan(["a", "b", "c"], ["c", "a", "b"])
    assert plan.victims(["x", "a", "b", "c", "y"]) == ["x", "y", "c", "b", "a"]
    plan.advance(2)
    assert plan.victims("abc") == ["b", "a", "c"]
    assert plan.victims("abc", 1) == ["b"]
    assert plan.victims("abc", after=4) == ["b"]


def test_nothing_goes_for_what_is_used_later() -> None:
    """Room for a use at some place is made by what is used after it alone."""
    plan = Plan(["a", "b", "c", "d"])
    assert plan.victims("abc", after=3) == []
    assert plan.victims("abcd", after=1) == ["d", "c"]


@given(st.lists(NAMES, max_size=20), st.lists(NAMES, max_size=20), st.integers(0, 45), st.sets(NAMES))
def test_victims_are_ranked_by_what_is_still_to_come(
    this: list[str], following: list[str], position: int, held: set[str]
) -> None:
    """As a search along the rest of both epochs finds it."""
    plan = Plan(this, following)
    plan.advance(position)
    rest = (this + following)[position:]

    def distance(name: str) -> int:
        return rest.index(name) if name in rest else len(this + following) + 1

    victims = plan.victims(sorted(held))
    assert set(victims) == held
    distances = [distance(name) for name in victims]
    assert distances == sorted(distances, reverse=True)
