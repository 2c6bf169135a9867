"""Reading a history whole, as far as a page shows one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

EVENTS_SHOWN = 200
#: A history is read whole up to this many events; what is older than the newest is still in the API.
_EVENTS_READ_MAX = 5000
_EVENTS_AT_ONCE = 1000


def history(page: Callable[[int, int], Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """All events; ``page`` reads at most so many after a ``seq``."""
    found: list[dict[str, Any]] = []
    while len(found) < _EVENTS_READ_MAX:
        more = page(found[-1]["seq"] if found else 0, _EVENTS_AT_ONCE)
        found += more
        if len(more) < _EVENTS_AT_ONCE:
            break
    return found
