"""Telling a meter how a verb went, in a word of a few."""

from __future__ import annotations

import functools
import time
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
#: Refusals of who may not say anything of that run: it has nothing to do with them.
_NOBODYS = ("forbidden", "not_found", "invalid")


class _Metered(Protocol):
    meter: Meter


def counted(
    kind: str, *, run_of: Callable[[str], str] | None = None
) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Tell the meter of the verb's object of every callback of this ``kind``: recorded, or the class of its refusal.

    ``run_of``: the run that a wait is ended of, by the id that the verb has after its caller.
    """

    def decorator(verb: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        @functools.wraps(verb)
        def told(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            outcome, began = "error", time.perf_counter()
            try:
                answer: Any = verb(self, *args, **kwargs)
                outcome = "recorded"
                return answer  # type: ignore[no-any-return]
            except Exception as error:
                outcome = next((word for kind, word in _REFUSALS.items() if isinstance(error, kind)), "error")
                raise
            finally:
                run_id = "" if run_of is None or outcome in _NOBODYS else run_of(str(args[1]))
                self.meter.callback(kind, outcome, run_id=run_id, took_s=time.perf_counter() - began)

        return told

    return decorator
