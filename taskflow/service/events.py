"""What happened: the history of one subject, by its ``seq``, and the feed of everything that is an owner's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row

from taskflow.db.events import events_after, newest_events
from taskflow.db.feed import BEGINNING, CommitWatch, Position, feed_after, feed_end
from taskflow.db.nodes import get_node
from taskflow.db.session import Database
from taskflow.db.tasks import get_task
from taskflow.errors import NotFound, UsageError
from taskflow.service.accounts import Caller
from taskflow.service.views import event_view

PAGE_MAX = 1000
#: As a cursor: the end of the feed, so that only what happens from now on is read.
NOW = "now"

_CURSOR = re.compile(r"([0-9]{1,19})-([0-9]{1,19})", re.ASCII)
_NUMBER_MAX = 2**63 - 1


class Events:
    """See the module. Nothing committed is left out or shown twice by a reader that goes on at the last cursor."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of_task(self, caller: Caller, task_id: str, *, after: int = 0, limit: int = 200) -> Sequence[dict[str, Any]]:
        """Events of a task with ``seq`` greater than ``after``, in order. Raises ``NotFound``."""
        with self._database.read() as tx:
            get_task(tx, caller.owner_id, task_id)
            return self._of(tx, caller, "task", task_id, after, limit)

    def of_node(self, caller: Caller, node_id: str, *, after: int = 0, limit: int = 200) -> Sequence[dict[str, Any]]:
        """Events of a node with ``seq`` greater than ``after``, in order. Raises ``NotFound``."""
        with self._database.read() as tx:
            if get_node(tx, node_id, owner_id=caller.owner_id) is None:
                raise NotFound(f"no node {node_id}", fields={"node_id": "unknown"})
            return self._of(tx, caller, "node", node_id, after, limit)

    def newest_of_task(self, caller: Caller, task_id: str, limit: int) -> Sequence[dict[str, Any]]:
        """The newest events of a task, in order. Raises ``NotFound``."""
        with self._database.read() as tx:
            get_task(tx, caller.owner_id, task_id)
            rows = newest_events(tx, caller.owner_id, "task", task_id, max(1, min(limit, PAGE_MAX)))
        return [event_view(row) for row in rows]

    def newest_of_node(self, caller: Caller, node_id: str, limit: int) -> Sequence[dict[str, Any]]:
        """The newest events of a node, in order. Raises ``NotFound``."""
        with self._database.read() as tx:
            if get_node(tx, node_id, owner_id=caller.owner_id) is None:
                raise NotFound(f"no node {node_id}", fields={"node_id": "unknown"})
            rows = newest_events(tx, caller.owner_id, "node", node_id, max(1, min(limit, PAGE_MAX)))
        return [event_view(row) for row in rows]

    def _of(
        self, tx: Connection, caller: Caller, kind: str, subject_id: str, after: int, limit: int
    ) -> Sequence[dict[str, Any]]:
        rows = events_after(tx, caller.owner_id, kind, subject_id, after, max(1, min(limit, PAGE_MAX)))
        return [event_view(row) for row in rows]

    def place(self, after: str | None) -> str:
        """The cursor that ``after`` of ``feed`` stands for. Raises ``UsageError``."""
        if after != NOW:
            return _encode(BEGINNING if after is None else _decode(after))
        with self._database.read() as tx:
            return _encode(feed_end(tx))

    def feed(
        self, caller: Caller, *, after: str | None = None, limit: int = 200
    ) -> tuple[Sequence[dict[str, Any]], str]:
        """A page of the events of everything that is the caller's, each with its ``cursor``, and the next ``after``.

        ``after``: a cursor; None: from the beginning; ``now``: only what comes from now on. Raises ``UsageError`` for any
        other text.
        """
        place = _decode(self.place(after))
        if after == NOW:
            return [], _encode(place)
        with self._database.read() as tx:
            rows = feed_after(tx, caller.owner_id, place, max(1, min(limit, PAGE_MAX)))
        next_place = _place(rows[-1]) if rows else place
        return [{**event_view(row), "cursor": _encode(_place(row))} for row in rows], _encode(next_place)

    def watch(self) -> CommitWatch:
        """What tells one thread that there may be news; to be closed."""
        return CommitWatch(self._database)


def _place(row: Row[Any]) -> Position:
    return Position(row.xact, row.id)


def _encode(place: Position) -> str:
    return f"{place.xact}-{place.id}"


def _decode(cursor: str) -> Position:
    found = _CURSOR.fullmatch(cursor)
    place = Position(*map(int, found.groups())) if found else None
    if place is None or max(place) > _NUMBER_MAX:
        raise UsageError("the cursor is not one of ours", fields={"after": "malformed"})
    return place
