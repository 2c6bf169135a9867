"""Telling a meter how a verb went, in a word of a few."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from taskflow.engine.meter import Meter
from taskflow.errors import Conflict, Forbidden, Gone, NotFound, UsageError

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="_Metered")

_REFUSALS: dict[type[Exception], str] = {
    Gone: "gone", Conflict: "conflict", NotFound: "not_found", Forbidden: "forbidden", UsageError: "invalid",
}  # fmt: skip


class _Metered(Protocol):
    meter: Meter


def counted(kind: str) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Tell the meter of the verb's object of every callback of this ``kind``: recorded, or the class of its refusal."""

    def decorator(verb: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        @functools.wraps(verb)
        def told(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            outcome = "error"
            try:
                answer: Any = verb(self, *args, **kwargs)
                outcome = "recorded"
                return answer  # type: ignore[no-any-return]
            except Exception as error:
                outcome = next((word for kind, word in _REFUSALS.items() if isinstance(error, kind)), "error")
                raise
            finally:
                self.meter.callback(kind, outcome)

        return told

    return decorator
