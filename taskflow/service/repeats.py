"""Verbs on tasks that are there, each done once for an idempotency key; and on many of them at once.

The key is remembered in the transaction that does what was asked, so that a client whose answer was lost asks again and
gets what the first request did: a second rerun would be a run of its own, and a cancel would be told that the task ended.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from taskflow.db.session import Database
from taskflow.db.tasks import get_task, idempotent_task, remember_idempotency
from taskflow.errors import InfrastructureError, Overloaded, TaskflowError, UsageError
from taskflow.service.accounts import Caller
from taskflow.service.keys import key_reused
from taskflow.service.tasks import Tasks
from taskflow.vault import Vault

Verb = Literal["run", "cancel", "rerun"]
#: How many tasks one request may name.
BULK_MAX = 100


class _DoneBefore(Exception):
    """The key was used for this: nothing is done, and the transaction ends."""


class Repeats:
    """See the module."""

    def __init__(self, database: Database, vault: Vault, tasks: Tasks, now: Callable[[], float]) -> None:
        self._database = database
        self._vault = vault
        self._tasks = tasks
        self._now = now

    def do(
        self, caller: Caller, verb: Verb, task_id: str, *, reason: str | None = None, key: str | None = None
    ) -> tuple[dict[str, Any], bool]:
        """Run, cancel or rerun a task: (task, whether it was done now). With a ``key`` seen before: the task as it is.

        Raises ``Conflict`` when the key was used for anything else, and what the verb itself raises.
        """
        first = None if key is None else self._once(caller, verb, task_id, reason, key)
        try:
            try:
                return self._do(caller, verb, task_id, reason, first), True
            except IntegrityError:
                if first is None:
                    raise
                # A twin with the same key committed first: this time it is seen.
                return self._do(caller, verb, task_id, reason, first), True
        except _DoneBefore:
            return self._tasks.get(caller, task_id), False

    def do_all(
        self, caller: Caller, verb: Verb, task_ids: Sequence[str], *, reason: str | None = None, key: str | None = None
    ) -> list[dict[str, Any]]:
        """The same for several tasks, each by itself: one outcome for each, in their order.

        ``{"id", "status", "task", "error"}``: the HTTP status that it alone would have been answered, and the task, or why
        not. Raises ``InfrastructureError`` when a store fails before anything was done; later it is an outcome.
        """
        outcomes: list[dict[str, Any]] = []
        away: InfrastructureError | None = None
        for task_id in dict.fromkeys(task_ids):
            try:
                if away is not None:
                    raise away
                task, _ = self.do(caller, verb, task_id, reason=reason, key=_key_of(key, task_id))
                outcomes.append({"id": task_id, "status": 202, "task": task, "error": None})
            except UsageError as error:
                outcomes.append(_refused(task_id, error.http_status, error))
            except Overloaded as error:
                outcomes.append(_refused(task_id, 503, error))
            except InfrastructureError as error:
                if not outcomes:
                    raise
                away = error
                said = InfrastructureError("a store was not usable", code=error.code, advice=error.advice)
                outcomes.append(_refused(task_id, 503, said))  # what the driver said is not the caller's
        return outcomes

    def _do(
        self, caller: Caller, verb: Verb, task_id: str, reason: str | None, first: Callable[[Connection], None] | None
    ) -> dict[str, Any]:
        if verb == "cancel":
            return self._tasks.cancel(caller, task_id, reason, first=first)
        return (self._tasks.run if verb == "run" else self._tasks.rerun)(caller, task_id, first=first)

    def _once(
        self, caller: Caller, verb: Verb, task_id: str, reason: str | None, key: str
    ) -> Callable[[Connection], None]:
        asked = self._vault.fingerprint({"verb": verb, "task_id": task_id, "reason": reason})

        def first(tx: Connection) -> None:
            get_task(tx, caller.owner_id, task_id)  # what is not the caller's is not found, whatever the key
            used = idempotent_task(tx, caller.owner_id, key)
            if used is None:
                remember_idempotency(tx, caller.owner_id, key, asked, task_id, self._now())
            elif used.request_hash == asked:
                raise _DoneBefore
            else:
                raise key_reused()

        return first


def _key_of(key: str | None, task_id: str) -> str | None:
    """Of the request's key, the one of this task."""
    return None if key is None else "bulk:" + hashlib.sha256(f"{key}\0{task_id}".encode()).hexdigest()


def _refused(task_id: str, status: int, error: TaskflowError) -> dict[str, Any]:
    said = {"code": error.code, "message": error.message, "advice": error.advice, "detail": error.detail or None}
    return {"id": task_id, "status": status, "task": None, "error": said}
