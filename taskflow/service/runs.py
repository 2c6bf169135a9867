"""The verbs on runs of pipelines of one's own: start, look, signal, cancel, run again."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row
from sqlalchemy.exc import IntegrityError

from taskflow.clock import isoformat
from taskflow.db import own_runs
from taskflow.db.events import append_event, newest_events
from taskflow.db.own_runs import EVERY_RUN, SUBJECT_KIND, RunFilter, subject_id_of
from taskflow.db.runs import insert_run, payload_hash, record_signal, request_cancel, to_row
from taskflow.db.session import Database
from taskflow.db.status import RUN_STATUSES
from taskflow.engine.alarms import Ringer
from taskflow.engine.control import Control
from taskflow.engine.meter import SILENT, Meter
from taskflow.engine.pipeline import INPUT, Pipeline
from taskflow.engine.store import RunRow
from taskflow.errors import (
    Conflict,
    Forbidden,
    Gone,
    InvalidInput,
    NotFound,
    Overloaded,
    TooMany,
    Unauthorized,
    UsageError,
)
from taskflow.ids import RunId, new_run_id
from taskflow.pipelines.registry import SHIPPED, SIGNAL
from taskflow.pipelines.tools import Tools
from taskflow.service.accounts import Caller
from taskflow.service.admission import RETRY_AFTER_S, Admission
from taskflow.service.inputs import check_size, load_input
from taskflow.service.keys import key_reused
from taskflow.service.pages import decode_cursor, encode_cursor, page_size
from taskflow.service.starting import Starter
from taskflow.service.views import event_view, own_run_summary, own_run_view
from taskflow.settings import Settings
from taskflow.vault import Vault, hash_token

EVENTS_MAX = 1000
#: How long a callback's token is good when nobody says it, and at most.
CALLBACK_S, CALLBACK_MAX_S = 86_400.0, 366 * 86_400.0
_MESSAGE_ID_MAX = 128
_RUN_ID = re.compile(r"run-[0-9a-z]{1,60}")


class Runs:
    """See the module. A run of a task or of a node is none of these."""

    def __init__(
        self,
        database: Database,
        control: Control,
        ringer: Ringer,
        vault: Vault,
        pipelines: Mapping[str, Pipeline],
        settings: Settings,
        now: Callable[[], float],
        admission: Admission,
        meter: Meter = SILENT,
    ) -> None:
        self._database = database
        self._ringer = ringer
        self._vault = vault
        self._pipelines = pipelines
        self._settings = settings
        self._now = now
        self._admission = admission
        self._starter = Starter(control, ringer, meter)
        self.tools = Tools(settings, database, vault, now)

    # --- starting

    def start(
        self,
        caller: Caller,
        pipeline: str,
        given: Mapping[str, Any] | None = None,
        *,
        subject: str | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[dict[str, Any], bool]:
        """Start a run of ``pipeline`` with the input ``given``: (run, made).

        ``subject``: what it is about, in the caller's words; while a run of the same pipeline is open for it, another is
        a ``Conflict``. With an ``idempotency_key`` seen before: the run it made and False. Raises ``InvalidInput`` naming
        each wrong field, ``UsageError`` for a pipeline that is not registered, ``TooMany`` past the owner's limit and
        ``Overloaded`` past everybody's.
        """
        table = self._table(pipeline)
        loaded = load_input(table, given or {}, bytes_max=self._settings.result_max_bytes // 2)
        said = {"pipeline": pipeline, "subject": subject, "input": dict(given or {})}
        key = None if idempotency_key is None else (idempotency_key, self._vault.fingerprint(said))

        def make(tx: Connection) -> Row[Any]:
            self._admission.admit(tx, caller.owner_id)
            return self._insert(tx, caller, table, loaded, subject, key)

        return self._begin(lambda tx: self._once(tx, caller, key, make))

    def rerun(self, caller: Caller, run_id: str, *, idempotency_key: str | None = None) -> tuple[dict[str, Any], bool]:
        """Start a failed or cancelled run again with the same input, as the next run of its subject: (run, made).

        With an ``idempotency_key`` seen before: the run it made and False.
        """
        key = None if idempotency_key is None else (idempotency_key, self._vault.fingerprint({"rerun": run_id}))

        def make(tx: Connection) -> Row[Any]:
            run = self._get(tx, caller, run_id)
            if run.finished_at is None or run.error is None:
                status = own_run_view(run)["status"]
                raise Conflict(
                    f"run {run_id} is {status}; only a run that failed or was cancelled can be run again",
                    code="not_failed", detail={"status": status},
                    advice="start another one" if run.finished_at else f"cancel it first: taskflow cancel {run_id}",
                )  # fmt: skip
            self._admission.admit(tx, caller.owner_id)
            table = self._table(run.pipeline)
            # What it was given fitted the schema of then; the steps of now may want another.
            loaded = run.results.get(INPUT, {})
            return self._insert(tx, caller, table, loaded, run.subject, key, of_subject=run.subject_id)

        def work(tx: Connection) -> tuple[Row[Any], bool]:
            self._get(tx, caller, run_id)  # what is not the caller's is not found, whatever the key
            return self._once(tx, caller, key, make)

        return self._begin(work)

    def _once(
        self, tx: Connection, caller: Caller, key: tuple[str, str] | None, make: Callable[[Connection], Row[Any]]
    ) -> tuple[Row[Any], bool]:
        """The run that the key made and False, else what ``make`` makes and True."""
        known = self._known(tx, caller, key)
        if known is None:
            try:
                return make(tx), True
            except (Conflict, TooMany, Overloaded):
                # What stands in the way may be what a twin with the same key made since the look.
                known = self._known(tx, caller, key)
                if known is None:
                    raise
        return known, False

    def _begin(self, work: Callable[[Connection], tuple[Row[Any], bool]]) -> tuple[dict[str, Any], bool]:
        began = time.perf_counter()
        try:
            row, made = self._database.write(work)
        except IntegrityError:
            # A twin with the same key, or for the same subject, committed first: this time it is seen.
            row, made = self._database.write(work)
        if made:
            self._starter.start(to_row(row), began)
        return own_run_view(row), made

    def _insert(
        self,
        tx: Connection,
        caller: Caller,
        table: Pipeline,
        loaded: Mapping[str, Any],
        subject: str | None,
        key: tuple[str, str] | None,
        *,
        of_subject: str | None = None,
    ) -> Row[Any]:
        run_id, now = new_run_id(), self._now()
        if of_subject is None:
            named = run_id if subject is None else subject
            of_subject = subject_id_of(caller.owner_id, table.name, named)
        last = own_runs.last_of_subject(tx, of_subject)
        if last is not None and last.finished_at is None:
            raise Conflict(
                f"run {last.id} of {table.name} is open for this subject", code="subject_busy",
                fields={"subject": "has an open run"}, detail={"run_id": last.id},
            )  # fmt: skip
        first = table.step(table.first)
        assert first is not None
        row = RunRow(
            id=run_id, pipeline=table.name, version=table.version, subject_kind=SUBJECT_KIND, subject_id=of_subject,
            number=1 if last is None else last.number + 1, owner_id=caller.owner_id, step=table.first, rev=0,
            step_entered_at=now, created_at=now, results={INPUT: dict(loaded)},
        )  # fmt: skip
        insert_run(tx, replace(row, deadline_at=first.deadline_after(row, now)))
        own_runs.insert_own_run(tx, run_id, caller.owner_id, subject=subject, key=key)
        append_event(
            tx, owner_id=caller.owner_id, subject_kind=SUBJECT_KIND, subject_id=of_subject, run_id=run_id,
            kind="run_started", step=table.first, actor=caller.actor, at=now,
            data={"pipeline": table.name, "subject": subject, "number": row.number},
        )  # fmt: skip
        return self._get(tx, caller, run_id)

    def _known(self, tx: Connection, caller: Caller, key: tuple[str, str] | None) -> Row[Any] | None:
        """The run that this idempotency key made, if it was used."""
        known = None if key is None else own_runs.run_of_key(tx, caller.owner_id, key[0])
        if known is not None and key is not None and known.request_hash != key[1]:
            raise key_reused()
        return known

    def _table(self, name: str) -> Pipeline:
        table = None if name in SHIPPED else self._pipelines.get(name)
        if table is None:
            own = sorted(set(self._pipelines) - SHIPPED)
            raise UsageError(
                f"no pipeline {name} is registered here", code="unknown_pipeline", fields={"pipeline": "unknown"},
                advice=f"registered are: {', '.join(own)}" if own else "register it: the setting is TASKFLOW_PIPELINES",
            )  # fmt: skip
        return table

    # --- looking

    def get(self, caller: Caller, run_id: str) -> dict[str, Any]:
        """A run. Raises ``NotFound``."""
        with self._database.read() as tx:
            return own_run_view(self._get(tx, caller, run_id))

    def list(
        self, caller: Caller, wanted: RunFilter = EVERY_RUN, *, limit: int = 50, cursor: str | None = None
    ) -> tuple[Sequence[dict[str, Any]], str | None]:
        """A page of the caller's runs that are ``wanted``, newest first, and the cursor of the next page (None after the
        last). Raises ``UsageError`` for a status that there is not, and for a foreign cursor."""
        unknown = [status for status in wanted.statuses if status not in RUN_STATUSES]
        if unknown:
            raise UsageError(
                f"no such status: {', '.join(unknown)}", fields={"status": f"one of {', '.join(RUN_STATUSES)}"}
            )
        before = decode_cursor(cursor, str)[0] if cursor else None
        with self._database.read() as tx:
            rows = own_runs.list_own_runs(tx, caller.owner_id, wanted, limit=page_size(limit), before=before)
        page = rows[: page_size(limit) - 1]
        return [own_run_summary(row) for row in page], encode_cursor(page[-1].id) if len(rows) > len(page) else None

    def events(self, caller: Caller, run_id: str, *, after: int = 0, limit: int = 200) -> Sequence[dict[str, Any]]:
        """Events of a run with ``seq`` greater than ``after``, in order. Raises ``NotFound``."""
        with self._database.read() as tx:
            run = self._get(tx, caller, run_id)
            rows = own_runs.events_of_run(tx, run, after, max(1, min(limit, EVENTS_MAX)))
        return [event_view(row) for row in rows]

    def newest_events(self, caller: Caller, run_id: str, limit: int) -> Sequence[dict[str, Any]]:
        """The newest events of a run, in order. Raises ``NotFound``."""
        with self._database.read() as tx:
            run = self._get(tx, caller, run_id)
            rows = newest_events(
                tx, caller.owner_id, run.subject_kind, run.subject_id, max(1, min(limit, EVENTS_MAX)), run.id
            )
        return [event_view(row) for row in rows]

    def wait_key(self, caller: Caller, run_id: str, name: str) -> str | None:
        """What tells this wait for the signal ``name`` from earlier ones, as an idempotency key: of several people who
        answer it the first counts. None while an answer is there that the run has not taken yet. Raises ``NotFound``."""
        with self._database.read() as tx:
            self._get(tx, caller, run_id)
            came, left = own_runs.count_signals(tx, run_id, name)
        return None if left else f"wait-{came}"

    def _get(self, tx: Connection, caller: Caller, run_id: str, *, lock: bool = False) -> Row[Any]:
        run = own_runs.get_own_run(tx, caller.owner_id, run_id, lock=lock)
        if run is None:
            raise NotFound(
                f"no run {run_id}",
                fields={"run_id": "unknown"},
                advice="taskflow list --runs shows those that there are",
            )
        return run

    # --- signals

    def signal(
        self, caller: Caller, run_id: str, name: str, payload: Mapping[str, Any], *, message_id: str = ""
    ) -> dict[str, Any]:
        """Record a signal and ring the run: ``{"recorded": False}`` when the same one was recorded before.

        A name has one answer, the first; with ``message_id`` each id has one. Raises ``Conflict`` when another answer was
        first, ``Gone`` after the end of the run, ``InvalidInput`` for a name that the pipeline does not wait for.
        """
        check_size("body", payload, self._settings.result_max_bytes)
        if len(message_id) > _MESSAGE_ID_MAX:
            message_id = hashlib.sha256(message_id.encode()).hexdigest()

        def work(tx: Connection) -> bool:
            run = self._get(tx, caller, run_id, lock=True)
            self._check_name(run, name)
            known = own_runs.get_signal(tx, run_id, name, message_id)
            if known is not None:
                if payload_hash(known.payload) != payload_hash(payload):
                    raise Conflict(f"run {run_id} has another answer to {name}, which came first", code="answered")
                return False
            self._check_open(tx, run)
            now = self._now()
            record_signal(tx, run_id, name, message_id, payload, now=now)
            append_event(
                tx, owner_id=run.owner_id, subject_kind=run.subject_kind, subject_id=run.subject_id, run_id=run_id,
                kind="signal_recorded", step=run.step, actor=caller.actor, at=now,
                data={"name": name, "subject": message_id},
            )  # fmt: skip
            return True

        recorded = self._database.write(work)
        # Also for a repeat: its first may have been recorded by a process that died before it rang.
        self._ringer.ring([RunId(run_id)], due_too=recorded)
        return {"recorded": recorded}

    def _check_name(self, run: Row[Any], name: str) -> None:
        table = self._pipelines.get(run.pipeline)
        if not SIGNAL.fullmatch(name):
            raise InvalidInput(
                "the signal has no name that can be one", fields={"name": "letters, digits, '_', '.', '-'"}
            )
        if table is not None and table.signals and name not in table.signals:
            raise InvalidInput(
                f"{run.pipeline} waits for no signal {name}",
                fields={"name": f"one of {', '.join(sorted(table.signals))}"},
            )

    def _check_open(self, tx: Connection, run: Row[Any]) -> None:
        if run.finished_at is not None:
            raise Gone(f"run {run.id} has ended", detail={"ended_at": isoformat(run.finished_at)})
        # One that is past the limit would fail the run: nobody outside may do that.
        if own_runs.count_waiting_signals(tx, run.id) >= self._settings.inbox_max:
            raise TooMany(
                f"{self._settings.inbox_max} signals wait for run {run.id}", code="inbox_full",
                retry_after_s=RETRY_AFTER_S,
            )  # fmt: skip

    def callback(self, caller: Caller, run_id: str, name: str, *, valid_s: float | None = None) -> dict[str, Any]:
        """An address and a token with which somebody outside may send the signal ``name`` to this run, and nothing else.

        ``valid_s`` (seconds, default a day). Asked again it is the same token, good for longer.
        """
        valid_s = CALLBACK_S if valid_s is None else valid_s
        if not 0 < valid_s <= CALLBACK_MAX_S:
            raise InvalidInput(
                "that is no time for a token", fields={"valid_s": f"above 0, at most {CALLBACK_MAX_S:g}"}
            )
        with self._database.read() as tx:
            run = self._get(tx, caller, run_id)
        self._check_name(run, name)
        if run.finished_at is not None:
            raise Gone(f"run {run_id} has ended", detail={"ended_at": isoformat(run.finished_at)})
        made = self.tools.callback(run_id, name, valid_s=valid_s)
        return {"url": made.url, "token": made.token, "expires_at": isoformat(made.expires_at)}

    def caller_of_callback(self, token: str | None, run_id: str, name: str) -> Caller:
        """Who shows this token at this run. Raises ``Unauthorized``, and ``Forbidden`` when it is for another signal."""
        if not token:
            raise Unauthorized("the token of the callback is needed", advice="send: Authorization: Bearer <token>")
        row = None
        if _RUN_ID.fullmatch(run_id):
            with self._database.read() as tx:
                row = own_runs.find_callback(tx, run_id, hash_token(token))
        if row is None or row.expires_at <= self._now():
            raise Unauthorized("the token is not valid here" if row is None else "the token has expired")
        if row.signal != name:
            raise Forbidden(f"this token is not for the signal {name}")
        return Caller(row.owner_id, "run", run_id, "", row.signal)

    # --- stopping

    def cancel(self, caller: Caller, run_id: str, reason: str | None = None) -> dict[str, Any]:
        """Ask for cancellation; the runner makes it true. Raises ``Conflict`` when the run has ended."""

        def work(tx: Connection) -> Row[Any]:
            run = self._get(tx, caller, run_id, lock=True)
            if run.finished_at is not None:
                status = own_run_view(run)["status"]
                raise Conflict(
                    f"run {run_id} is {status} already; only a run that has not ended can be cancelled",
                    code="ended", detail={"status": status},
                )  # fmt: skip
            now = self._now()
            if request_cancel(tx, run_id, actor=caller.actor, reason=reason or "requested", now=now):
                append_event(
                    tx, owner_id=run.owner_id, subject_kind=run.subject_kind, subject_id=run.subject_id, run_id=run_id,
                    kind="cancel_requested", step=run.step, actor=caller.actor, at=now, data={"reason": reason},
                )  # fmt: skip
            return self._get(tx, caller, run_id)

        row = self._database.write(work)
        self._ringer.ring([RunId(run_id)])
        return own_run_view(row)
