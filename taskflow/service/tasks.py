"""The verbs on tasks: submit, run, cancel, rerun, list, show, logs."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, select
from sqlalchemy.exc import IntegrityError

from taskflow.db import tasks as task_rows
from taskflow.db.events import append_event
from taskflow.db.listing import EVERY_TASK, TaskFilter, list_tasks
from taskflow.db.models import AgentSession, LogChunk
from taskflow.db.runs import get_run, insert_run, request_cancel
from taskflow.db.session import Database
from taskflow.db.status import STATUSES, TERMINAL
from taskflow.db.submission import submit_at_once
from taskflow.db.tasks import transition
from taskflow.db.usage import use_of_task
from taskflow.db.workspaces import last_output_at
from taskflow.engine.alarms import Ringer
from taskflow.engine.control import Control
from taskflow.engine.meter import SILENT, Meter
from taskflow.engine.pipeline import Pipeline
from taskflow.engine.store import RunRow
from taskflow.errors import Conflict, Overloaded, TooMany, UsageError
from taskflow.ids import new_run_id, new_task_id
from taskflow.nodes.context import StepTools
from taskflow.service.accounts import Caller
from taskflow.service.admission import Admission
from taskflow.service.keys import key_reused
from taskflow.service.pages import decode_cursor, encode_cursor, page_size
from taskflow.service.reruns import is_over, refuse_rerun, refuse_start, rerun_reason
from taskflow.service.specs import check_provider, check_spec, title_of
from taskflow.service.starting import Starter
from taskflow.service.unheard import unheard
from taskflow.service.views import task_summary, task_view

PIPELINE = "agent_task"

#: An idempotency key and the hash of the request that used it.
_Key = tuple[str, str]
#: Called first in a transaction; what it raises undoes and ends it.
_First = Callable[[Connection], None]
#: A task, its run if it has one, and whether they were made now.
_Submitted = tuple[Row[Any], RunRow | None, bool]


class Tasks:
    """See the module. ``spec`` is what ``POST /api/tasks`` takes, already checked by its schema."""

    def __init__(
        self,
        database: Database,
        control: Control,
        ringer: Ringer,
        tools: StepTools,
        pipelines: Mapping[str, Pipeline],
        now: Callable[[], float],
        admission: Admission,
        meter: Meter = SILENT,
    ) -> None:
        self._database = database
        self._ringer = ringer
        self._tools = tools
        self._vault = tools.vault
        self._pipelines = pipelines
        self._settings = tools.settings
        self._now = now
        self._admission = admission
        self._starter = Starter(control, ringer, meter)

    # --- starting

    def submit(
        self, caller: Caller, spec: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> tuple[dict[str, Any], bool]:
        """Make a task and, unless ``spec["start"]`` is false, its first run: (task, made).

        With an ``idempotency_key`` seen before: the task it made and False; ``Conflict`` when the content was another.
        Raises ``TooMany`` or ``Overloaded``, and then nothing was written, when too many tasks have not ended.
        """
        began = time.perf_counter()
        key = None if idempotency_key is None else (idempotency_key, self._vault.fingerprint(spec))
        try:
            check_spec(spec, self._settings)
            check_provider(self._database, self._tools.catalogue, caller, spec)
        except UsageError:
            # What was taken is answered with its task also where settings or catalogue would refuse it by now.
            if key is None or (known := self._look_up(caller, key)) is None:
                raise
            return self._shown(*known[:2]), False
        starts = spec.get("start", True)
        try:
            if starts and self._database.counts_round_trips and self._admission.has_room(caller.owner_id):
                task, run, made = self._submit_at_once(caller, spec, key)
            else:
                task, run, made = self._database.write(lambda tx: self._submit(tx, caller, spec, key))
        except IntegrityError:
            if key is None:
                raise
            # A twin with the same key committed first: answer with its task.
            task, run, made = self._database.write(lambda tx: self._submit(tx, caller, spec, key))
        if not made:
            return self._shown(task, run), False
        if run is not None:
            self._starter.start(run, began)
        return task_view(task, run), True

    def _submit(self, tx: Connection, caller: Caller, spec: Mapping[str, Any], key: _Key | None) -> _Submitted:
        now = self._now()
        if key is not None and (known := self._known(tx, caller, key)) is not None:
            return known
        try:
            self._admission.admit(tx, caller.owner_id)
        except (TooMany, Overloaded):
            # What fills the last place may be what a twin with the same key made since the look.
            if key is not None and (known := self._known(tx, caller, key)) is not None:
                return known
            raise
        task_id = new_task_id()
        run = self._new_run(caller.owner_id, task_id, 1, now) if spec.get("start", True) else None
        if run is not None:
            insert_run(tx, run)
        task = task_rows.insert_task(tx, self._columns(caller, task_id, spec, run), actor=caller.actor, now=now)
        if key is not None:
            task_rows.remember_idempotency(tx, caller.owner_id, *key, task_id, now)
        return task, run, True

    def _submit_at_once(self, caller: Caller, spec: Mapping[str, Any], key: _Key | None) -> _Submitted:
        """The same for a task that starts and needs no lock to be admitted: one round trip instead of five."""
        now = self._now()
        if key is not None and (known := self._look_up(caller, key)) is not None:
            return known
        task_id = new_task_id()
        run = self._new_run(caller.owner_id, task_id, 1, now)
        columns = self._columns(caller, task_id, spec, run)
        return submit_at_once(self._database, run, columns, key=key, actor=caller.actor, now=now), run, True

    def _look_up(self, caller: Caller, key: _Key) -> _Submitted | None:
        with self._database.read() as tx:
            return self._known(tx, caller, key)

    def _known(self, tx: Connection, caller: Caller, key: _Key) -> _Submitted | None:
        """The task that this idempotency key made, if it was used."""
        used = task_rows.idempotent_task(tx, caller.owner_id, key[0])
        if used is None:
            return None
        if used.request_hash != key[1]:
            raise key_reused()
        task = task_rows.get_task(tx, caller.owner_id, used.task_id)
        return task, get_run(tx, task.run_id) if task.run_id else None, False

    def _columns(self, caller: Caller, task_id: str, spec: Mapping[str, Any], run: RunRow | None) -> dict[str, Any]:
        secrets = spec.get("secrets") or {}
        return {
            "id": task_id,
            "owner_id": caller.owner_id,
            "title": spec.get("title") or title_of(spec["command"]),
            "status": "draft" if run is None else "queued",
            "priority": spec.get("priority", 0),
            "project": spec.get("project") or "",
            "labels": dict(spec.get("labels") or {}),
            "repository": spec["repository"],
            "branch": spec.get("branch"),
            "command": list(spec["command"]),
            "setup_command": spec.get("setup_command"),
            "env": dict(spec.get("env") or {}),
            "secrets_encrypted": self._vault.encrypt(secrets) if secrets else None,
            "push": spec.get("push", True),
            "time_limit_s": spec.get("time_limit_s") or self._settings.execution_timeout_s,
            "resources": {key: value for key, value in (spec.get("resources") or {}).items() if value is not None}
            or None,
            "requested_node_id": spec.get("node_id"),
            "allow_node_fallback": spec.get("allow_node_fallback", False),
            "node_loss_reruns_max": spec.get("node_loss_reruns", 0),
            "node_loss_reruns": 0,
            "run_id": None if run is None else run.id,
            "run_number": 0 if run is None else run.number,
        }

    def run(self, caller: Caller, task_id: str, *, first: _First | None = None) -> dict[str, Any]:
        """Start a draft. Raises ``Conflict`` when it was started already (a double click)."""
        began = time.perf_counter()

        def work(tx: Connection) -> tuple[Row[Any], RunRow]:
            now = self._now()
            if first is not None:
                first(tx)
            task = task_rows.get_task(tx, caller.owner_id, task_id, lock=True)
            refuse_start(task)
            if task.status == "draft":
                transition(tx, task_id, "ready", actor=caller.actor, now=now)
            return self._queue(tx, caller.actor, task, now)

        task, run = self._database.write(work)
        self._starter.start(run, began)
        return self._shown(task, run)

    def rerun(self, caller: Caller, task_id: str, *, first: _First | None = None) -> dict[str, Any]:
        """Start run number n+1 of a failed or cancelled task. ``Conflict`` while the last run still cleans up.

        It counts as one more open task: ``TooMany`` and ``Overloaded`` as in ``submit``.
        """
        began = time.perf_counter()

        def work(tx: Connection) -> tuple[Row[Any], RunRow]:
            now = self._now()
            if first is not None:
                first(tx)
            task = task_rows.get_task(tx, caller.owner_id, task_id, lock=True)
            last = get_run(tx, task.run_id) if task.run_id else None
            if last is not None and last.finished_at is None and task.status in TERMINAL:
                raise Conflict(
                    f"run {last.number} of task {task_id} still cleans up", code="still_cleaning_up",
                    advice=f"ask again when that is done; taskflow why {task_id} says what it waits for",
                )  # fmt: skip
            refuse_rerun(task)
            self._admission.admit(tx, caller.owner_id)
            transition(tx, task_id, "ready", actor=caller.actor, now=now, from_statuses=("failed", "cancelled"))
            return self._queue(tx, caller.actor, task, now, node_loss_reruns=0)

        task, run = self._database.write(work)
        self._starter.start(run, began)
        return self._shown(task, run)

    def rerun_lost(self, task_id: str, run_id: str) -> bool:
        """Run a task again whose run was lost with its node, once however often this is asked. False: not yet.

        Its user may have cancelled, rerun or deleted it meanwhile; then there is nothing to do. What the lost run may
        still report stays beside the new one.
        """
        began = time.perf_counter()

        def work(tx: Connection) -> tuple[bool, RunRow | None]:
            now = self._now()
            task = task_rows.lock_task(tx, task_id)
            last = None if task is None else get_run(tx, run_id)
            if task is None or last is None or task.run_id != run_id or task.status != "failed":
                return True, None
            if last.cancel_requested_at is not None or task.node_loss_reruns >= task.node_loss_reruns_max:
                return True, None
            if not is_over(tx, task, last, now, signature_age_s=self._settings.signature_age_s):
                return False, None
            self._admission.admit(tx, task.owner_id)
            done = task.node_loss_reruns + 1
            transition(
                tx, task_id, "ready", actor="runner", now=now, from_statuses=("failed",),
                reason=rerun_reason(task, done),
            )  # fmt: skip
            kept = {"node_loss_reruns": done, "late_result": task.late_result}
            return True, self._queue(tx, "runner", task, now, **kept)[1]

        try:
            done, run = self._database.write(work)
        except (TooMany, Overloaded):
            return False  # as for anybody else, only that nobody is there to be refused
        if run is not None:
            self._starter.start(run, began)
        return done

    def _queue(self, tx: Connection, actor: str, task: Row[Any], now: float, **fields: Any) -> tuple[Row[Any], RunRow]:
        run = self._new_run(task.owner_id, task.id, task.run_number + 1, now)
        transition(
            tx, task.id, "queued", actor=actor, now=now, from_statuses=("ready",),
            fields={**fields, "run_id": run.id, "run_number": run.number},
        )  # fmt: skip
        insert_run(tx, run)
        return task_rows.get_task(tx, task.owner_id, task.id), run

    def _new_run(self, owner_id: str, task_id: str, number: int, now: float) -> RunRow:
        pipeline = self._pipelines[PIPELINE]
        return RunRow(
            id=new_run_id(), pipeline=pipeline.name, version=pipeline.version, subject_kind="task",
            subject_id=task_id, number=number, owner_id=owner_id, step=pipeline.first, rev=0, step_entered_at=now,
            created_at=now,
        )  # fmt: skip

    # --- stopping

    def cancel(
        self, caller: Caller, task_id: str, reason: str | None = None, *, first: _First | None = None
    ) -> dict[str, Any]:
        """Ask for cancellation; the runner makes it true. A task without a run is cancelled here and now.

        Raises ``Conflict`` with the status when the task has ended.
        """

        def work(tx: Connection) -> tuple[Row[Any], RunRow | None]:
            now = self._now()
            if first is not None:
                first(tx)
            seen = task_rows.get_task(tx, caller.owner_id, task_id)
            run = get_run(tx, seen.run_id, lock=True) if seen.run_id else None
            task = task_rows.get_task(tx, caller.owner_id, task_id, lock=True)
            if task.status in TERMINAL:
                raise Conflict(
                    f"task {task_id} is {task.status} already; only a task that has not ended can be cancelled",
                    code="already_ended", detail={"status": task.status},
                )  # fmt: skip
            if run is None or run.finished_at is not None:
                transition(tx, task_id, "cancelled", actor=caller.actor, now=now, reason=reason)
                return task_rows.get_task(tx, caller.owner_id, task_id), run
            if request_cancel(tx, run.id, actor=caller.actor, reason=reason or "requested", now=now):
                append_event(
                    tx, owner_id=caller.owner_id, subject_kind="task", subject_id=task_id, run_id=run.id,
                    kind="cancel_requested", step=run.step, actor=caller.actor, at=now, data={"reason": reason},
                )  # fmt: skip
            return task, get_run(tx, run.id)

        task, run = self._database.write(work)
        if run is not None and run.finished_at is None:
            self._ringer.ring([run.id])
        return self._shown(task, run)

    # --- looking

    def get(self, caller: Caller, task_id: str) -> dict[str, Any]:
        """One task. Raises ``NotFound``."""
        with self._database.read() as tx:
            task = task_rows.get_task(tx, caller.owner_id, task_id)
            run = get_run(tx, task.run_id) if task.run_id else None
            return self._view(tx, task, run)

    def _shown(self, task: Row[Any], run: RunRow | None) -> dict[str, Any]:
        with self._database.read() as tx:
            return self._view(tx, task, run)

    def _view(self, tx: Connection, task: Row[Any], run: RunRow | None) -> dict[str, Any]:
        output_at = last_output_at(tx, task.run_id) if task.status == "in_progress" else None
        return task_view(
            task, run, use_of_task(tx, task.id, self._now()), unheard(tx, self._tools, task), output_at=output_at
        )

    def list(
        self, caller: Caller, wanted: TaskFilter = EVERY_TASK, *, limit: int = 50, cursor: str | None = None
    ) -> tuple[Sequence[dict[str, Any]], str | None]:
        """A page of the caller's tasks that are ``wanted``, newest first, and the cursor of the next page (None after the
        last). Raises ``UsageError`` for a status or step that there is not, and for a foreign cursor."""
        self._check_filter(wanted)
        before = decode_cursor(cursor, float, str) if cursor else None
        with self._database.read() as tx:
            rows = list_tasks(
                tx, caller.owner_id, wanted, limit=page_size(limit), before=(before[0], before[1]) if before else None
            )
        page = rows[: page_size(limit) - 1]
        cursor = encode_cursor(page[-1].created_at, page[-1].id) if len(rows) > len(page) else None
        return [task_summary(row) for row in page], cursor

    def _check_filter(self, wanted: TaskFilter) -> None:
        unknown = [status for status in wanted.statuses if status not in STATUSES]
        if unknown:
            raise UsageError(
                f"no such status: {', '.join(unknown)}", fields={"status": f"one of {', '.join(STATUSES)}"}
            )
        steps = [step.name for step in self._pipelines[PIPELINE].steps]
        if wanted.step is not None and wanted.step not in steps:
            raise UsageError(f"no such step: {wanted.step}", fields={"step": f"one of {', '.join(steps)}"})

    def logs(
        self, caller: Caller, task_id: str, *, after: int = 0, limit: int = 100, run_id: str | None = None
    ) -> dict[str, Any]:
        """Log chunks of the task's session (its current run's unless ``run_id``) with a number greater than ``after``.

        ``{"chunks": [{"number", "data"}], "next": the next ``after``, "ended": the session is over}``; data is base64.
        """
        with self._database.read() as tx:
            task = task_rows.get_task(tx, caller.owner_id, task_id)
            session = tx.execute(
                select(AgentSession.id, AgentSession.ended_at).where(
                    AgentSession.task_id == task_id, AgentSession.run_id == (run_id or task.run_id)
                )
            ).first()
            if session is None:
                # A run that is over without one will have none, whatever became of its task since.
                run = get_run(tx, run_id) if run_id else None
                over = run_id is not None and (run is None or run.subject_id != task_id or run.finished_at is not None)
                return {"chunks": [], "next": after, "ended": over or task.status in TERMINAL}
            rows = tx.execute(
                select(LogChunk.number, LogChunk.data)
                .where(LogChunk.session_id == session.id, LogChunk.number > after)
                .order_by(LogChunk.number)
                .limit(max(1, min(limit, 1000)))
            ).all()
        chunks = [{"number": row.number, "data": base64.b64encode(row.data).decode()} for row in rows]
        ended = session.ended_at is not None or task.status in TERMINAL
        return {"chunks": chunks, "next": rows[-1].number if rows else after, "ended": ended}
