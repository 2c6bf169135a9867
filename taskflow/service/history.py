"""What became of a task's runs: their steps with durations, every attempt that failed, and promises that fail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row

from taskflow.clock import isoformat
from taskflow.db.events import failing_promises
from taskflow.db.listing import list_errors, list_runs, steps_of_runs
from taskflow.db.session import Database
from taskflow.db.tasks import get_task
from taskflow.service.accounts import Caller
from taskflow.service.pages import PAGE_MAX, decode_cursor, encode_cursor, page_size
from taskflow.sweeps.drain_outbox import UNKNOWN

#: A page of dicts, and the cursor of the next page (None after the last).
Page = tuple[Sequence[dict[str, Any]], str | None]


class History:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def runs(self, caller: Caller, task_id: str, *, limit: int = 20, cursor: str | None = None) -> Page:
        """A page of the runs of a task, the last one first. Raises ``NotFound``, ``UsageError`` for a foreign cursor."""
        before = decode_cursor(cursor, int)[0] if cursor else None
        with self._database.read() as tx:
            get_task(tx, caller.owner_id, task_id)
            rows = list_runs(tx, caller.owner_id, task_id, limit=page_size(limit), before=before)
            page = rows[: page_size(limit) - 1]
            steps = self._steps(tx, caller, task_id, [row.id for row in page])
        more = len(rows) > len(page)
        return [run_view(row, steps.get(row.id, ())) for row in page], encode_cursor(page[-1].number) if more else None

    def _steps(
        self, tx: Connection, caller: Caller, task_id: str, run_ids: Sequence[str]
    ) -> Mapping[str, Sequence[Row[Any]]]:
        found: dict[str, list[Row[Any]]] = {}
        for row in steps_of_runs(tx, caller.owner_id, task_id, run_ids):
            found.setdefault(row.run_id, []).append(row)
        return found

    def errors(
        self,
        caller: Caller,
        *,
        task_id: str | None = None,
        step: str | None = None,
        code: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """A page of the failed attempts of the caller's runs, newest first; of one task, step or code, if it is named.

        Those of nodes and of pipelines of one's own are among them. Raises ``NotFound`` for the task, ``UsageError`` for a
        foreign cursor.
        """
        before = decode_cursor(cursor, int)[0] if cursor else None
        with self._database.read() as tx:
            if task_id is not None:
                get_task(tx, caller.owner_id, task_id)
            rows = list_errors(
                tx, caller.owner_id, limit=page_size(limit), task_id=task_id, step=step, code=code, before=before
            )
        page = rows[: page_size(limit) - 1]
        return [error_view(row) for row in page], encode_cursor(page[-1].id) if len(rows) > len(page) else None

    def promises(self, caller: Caller, limit: int = 20) -> list[dict[str, Any]]:
        """What the installation promised the caller and failed to do so far, the most often tried first: a further run of
        a task that was lost with its node, a look at limits that were changed."""
        with self._database.read() as tx:
            rows = failing_promises(tx, limit, owner_id=caller.owner_id)
        return [promise_view(row) for row in rows]

    def alike(self, caller: Caller, *, limit: int = 50, cursor: str | None = None) -> Page:
        """The same page as ``errors``, where of the attempts of one run that failed at one step with one code the newest
        stands for all: ``more`` says for how many others that the page has. ``limit`` of them at most. Raises
        ``UsageError``."""
        page, following = self.errors(caller, limit=PAGE_MAX, cursor=cursor)
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        for number, one in enumerate(page):
            key = tuple(one[name] for name in _ALIKE)
            if key not in found and len(found) == limit:
                return list(found.values()), encode_cursor(int(page[number - 1]["id"]))
            newest = found.setdefault(key, {**one, "more": -1})
            newest["more"] += 1
        return list(found.values()), following


_ALIKE = ("run_id", "step", "code")


def promise_view(row: Row[Any]) -> dict[str, Any]:
    """An outbox row that failed. The error's detail is for the log."""
    error = row.error or UNKNOWN
    return {
        "id": str(row.id),
        "kind": row.kind,
        "task_id": row.payload.get("task_id"),
        "attempts": row.attempts,
        "code": error["code"],
        "message": error["message"],
        "created_at": isoformat(row.created_at),
        "next_at": isoformat(row.next_at),
    }


def run_view(row: Row[Any], left: Iterable[Row[Any]]) -> dict[str, Any]:
    """A run with its steps; ``left``: the events that say that a step was left, in order."""
    steps = [
        {
            "step": event.data.get("from"),
            "entered_at": isoformat(event.at - event.data["duration_s"]),
            "left_at": isoformat(event.at),
            "duration_s": event.data["duration_s"],
            "error": event.data.get("error"),
        }
        for event in left
    ]
    if row.finished_at is None:
        now_in = {"entered_at": isoformat(row.step_entered_at), "left_at": None, "duration_s": None, "error": None}
        steps.append({"step": row.step, **now_in})
    return {
        "id": row.id,
        "number": row.number,
        "steps": steps,
        "result": row.result,
        "error": row.error,
        "cancel_requested_at": isoformat(row.cancel_requested_at),
        "cancel_requested_by": row.cancel_requested_by,
        "cancel_reason": row.cancel_reason,
        "created_at": isoformat(row.created_at),
        "finished_at": isoformat(row.finished_at),
        "duration_s": None if row.finished_at is None else round(max(0.0, row.finished_at - row.created_at), 6),
    }


def error_view(row: Row[Any]) -> dict[str, Any]:
    """A failed attempt. What a step put into the error's detail, which may be our own traceback, is for the log."""
    return {
        "id": str(row.id),
        "subject_kind": row.subject_kind,
        "subject_id": row.subject_id,
        "task_id": row.subject_id if row.subject_kind == "task" else None,
        "title": row.title or row.node_name or row.subject,
        "pipeline": row.pipeline,
        "run_id": row.run_id,
        "run_number": row.number,
        "step": row.step,
        "attempt": row.attempt,
        "code": row.code,
        "message": row.error.get("message"),
        "advice": row.error.get("advice"),
        "retry_in_s": row.retry_in_s,
        "at": isoformat(row.at),
    }
