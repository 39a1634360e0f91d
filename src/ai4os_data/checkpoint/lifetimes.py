"""Who keeps what alive: a run goes once its user has dropped it and its last upload is through."""

from __future__ import annotations

import traceback
import weakref
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


def weakly(method: Callable[P, T]) -> Callable[P, T]:
    """A method that does not keep its object alive; whoever calls it sees to that."""
    reference = weakref.WeakMethod(method)

    def call(*arguments: P.args, **options: P.kwargs) -> T:
        bound = reference()
        assert bound is not None, "the object is gone"
        return bound(*arguments, **options)

    return call


def without_locals(error: BaseException) -> None:
    """Keep of an error where it came from, and not the states and runs that the functions on its way had in hand."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if found.__traceback__ is not None:
            traceback.clear_frames(found.__traceback__)
        found = found.__cause__ or found.__context__
