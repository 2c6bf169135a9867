"""What happened: the commands about events, failed attempts, runs of a task, and who waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from taskflow.cli import render
from taskflow.cli.client import Api
from taskflow.words import compact

_EVENTS_AT_ONCE = 1000


def last_events(api: Api, thing_id: str, most: int | None) -> tuple[list[dict[str, Any]], int]:
    """The newest ``most`` events (None: all) of a task, run or node, in order, and how many there are."""
    kept: deque[dict[str, Any]] = deque(maxlen=most)
    after, count = 0, 0
    while events := (page := api.events(thing_id, after, limit=_EVENTS_AT_ONCE))["events"]:
        kept.extend(events)
        count += len(events)
        after = int(page["next"])
    return list(kept), count


def events_table(events: Iterable[Mapping[str, Any]]) -> str:
    """Events as lines, in their order."""
    rows = [
        (render.second(one["at"]), one["kind"], one["step"], one["actor"], compact(one["data"] or {})) for one in events
    ]
    return render.table(("AT", "WHAT", "STEP", "BY", "SAYS"), rows)
