"""What nodes and workspaces report. A callback becomes rows first, in one transaction; then the run is rung.

First write wins. A repeat answers the same and rings again, because the first ring may have died with its process.
After the end of the run the answer is ``Gone``, so that the sender stops. Nothing here ever revives a row that ended.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import structlog
from sqlalchemy import Connection, Row, func, insert, select, update

from taskflow.addresses import AddressRefused, check_host, is_loopback
from taskflow.db.events import append_event
from taskflow.db.models import AgentSession, LogChunk, Node, Task, Workspace
from taskflow.db.nodes import claim_order, get_node, note_boot_stage, revoke_bootstrap
from taskflow.db.runs import get_run, payload_hash, record_answer, record_signal
from taskflow.db.session import Database
from taskflow.db.status import LOCAL_PROVIDER, TERMINAL
from taskflow.db.workspaces import (
    SESSION_OUTCOME,
    WORKSPACE_OUTCOME,
    end_preparation,
    end_session,
    get_session,
    late_session,
    lock_run_of_workspace,
    task_of_workspace,
)
from taskflow.engine.alarms import Ringer
from taskflow.engine.meter import SILENT, Meter
from taskflow.engine.store import RunRow
from taskflow.errors import Conflict, Forbidden, Gone, NotFound, UsageError
from taskflow.ids import RunId, run_id_of_workspace
from taskflow.nodes.context import StepTools
from taskflow.nodes.liveness import named
from taskflow.protocol import BOOT_STAGES, LOG_CHUNK_BYTES_MAX
from taskflow.service.accounts import Caller
from taskflow.service.counted import counted
from taskflow.service.renewal import renewed_tokens

log = structlog.get_logger(__name__)

AGENT_READY = "agent_ready"
#: Verdicts about a session that a later report of the session itself may prove wrong.
_LIVENESS_VERDICTS = frozenset({"session_lost", "node_lost", "step_timeout", "stuck"})
#: What is worth keeping then: an end that was seen. That the node itself lost or cut off the session is no result.
_LATE_RESULTS = frozenset({"exited", "timed_out"})


class Callbacks:
    """The verbs of nodes and workspaces. ``payload`` is the wire message, already checked by its schema."""

    def __init__(
        self,
        database: Database,
        ringer: Ringer,
        tools: StepTools,
        now: Callable[[], float],
        meter: Meter = SILENT,
    ) -> None:
        self._database = database
        self._ringer = ringer
        self._tools = tools
        self._vault = tools.vault
        self._settings = tools.settings
        self._now = now
        self.meter = meter

    # --- nodes

    @counted("bootstrap")
    def node_bootstrap(self, caller: Caller, node_id: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The order of a node (``NodeOrderSchema``), to its own server, once: a second server that shows the same token,
        copied from somewhere, is refused. The same ``claim`` again gets the same answer, as the first may have been lost.
        """
        caller.must_be("bootstrap", node_id)

        def work(tx: Connection) -> Row[Any]:
            node, _ = self._living(tx, node_id)
            if not claim_order(tx, node_id, payload["claim"]):
                log.warning("bootstrap_refused", node_id=node_id)
                raise Forbidden(f"the order of node {node_id} was fetched by another server", code="bootstrap_used")
            return node

        return self._tools.agent_order(self._database.write(work))

    @counted("boot_stage")
    def node_boot_stage(self, caller: Caller, node_id: str, stage: str) -> dict[str, Any]:
        """Record how far a new server's first boot is. Answers the stage that counts: it never goes back."""
        caller.must_be("bootstrap", node_id)
        if stage not in BOOT_STAGES:
            raise NotFound("no such stage of a boot", fields={"stage": f"must be one of {', '.join(BOOT_STAGES)}"})

        def work(tx: Connection) -> str:
            now = self._now()
            node, run = self._living(tx, node_id)
            if not note_boot_stage(tx, node_id, stage, now):
                return str(node.boot_stage)
            append_event(
                tx, owner_id=run.owner_id, subject_kind="node", subject_id=node_id, run_id=run.id, kind="boot_stage",
                actor="server", at=now, data={"stage": stage},
            )  # fmt: skip
            return stage

        return {"stage": self._database.write(work)}

    @counted("heartbeat")
    def node_heartbeat(self, caller: Caller, node_id: str, beat: Mapping[str, Any]) -> dict[str, Any]:
        """Record a heartbeat, and readiness when it says so; the answer (``HeartbeatAnswerSchema``) renews tokens.

        Raises ``Gone`` when the node is destroyed.
        """
        caller.must_be("node", node_id)

        def work(tx: Connection) -> tuple[dict[str, Any], RunId | None]:
            now = self._now()
            node, run = self._living(tx, node_id)
            _check_address(beat["address"], local=node.provider == LOCAL_PROVIDER)
            kept = {**beat, "before": {"at": node.last_heartbeat_at, "sessions": named(node.heartbeat)}}
            first_ready = bool(beat["ready"]) and node.agent_ready_at is None
            tx.execute(
                update(Node)
                .where(Node.id == node_id, Node.destroyed_at.is_(None))
                .values(
                    last_heartbeat_at=now, heartbeat=kept, address=beat["address"],
                    boot_id=beat["boot_id"], agent_version=beat["agent_version"],
                    **({"agent_ready_at": now} if first_ready else {}),
                )
            )  # fmt: skip
            if first_ready:
                revoke_bootstrap(tx, node_id, now)
            self._note_progress(tx, node_id, beat, now)
            tokens = renewed_tokens(
                tx, self._vault, node_id, seen=caller.generation, now=now, life_s=self._settings.callback_token_s
            )
            answer = {"status": node.status, "time": now, **tokens}
            if not beat["ready"] or run.step != "await_agent":
                # Heard of again: its runner is to know it now, not at its next look.
                return answer, run.id if node.unreachable_since is not None else None
            record_signal(tx, run.id, AGENT_READY, node_id, {"boot_id": beat["boot_id"]}, now=now)
            return answer, run.id

        answer, ring = self._database.write(work)
        if ring is not None:
            self._ringer.ring([ring])
        return answer

    def _living(self, tx: Connection, node_id: str) -> tuple[Row[Any], RunRow]:
        node = get_node(tx, node_id)
        if node is None:
            raise NotFound(f"no node {node_id}")
        run = get_run(tx, node.run_id, lock=True)
        if node.destroyed_at is not None or run is None or run.finished_at is not None:
            raise Gone(f"node {node_id} is {node.status}")
        return node, run

    def _note_progress(self, tx: Connection, node_id: str, beat: Mapping[str, Any], now: float) -> None:
        for session in beat["sessions"] or ():
            if session["output_age_s"] is None or not session["output_bytes"]:
                continue  # it wrote nothing yet: the age is that of an empty file
            tx.execute(
                update(AgentSession)
                .where(
                    AgentSession.id == session["session_id"],
                    AgentSession.ended_at.is_(None),
                    AgentSession.workspace_id.in_(select(Workspace.id).where(Workspace.node_id == node_id)),
                )
                .values(last_progress_at=now - session["output_age_s"])
            )

    # --- workspaces

    @counted("workspace_outcome", run_of=run_id_of_workspace)
    def workspace_outcome(self, caller: Caller, workspace_id: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Record that a workspace is ready or failed. ``Gone`` after the end, ``Conflict`` on a contradiction."""
        caller.must_be("workspace", workspace_id)

        def work(tx: Connection) -> RunId:
            now = self._now()
            run, task = self._find(tx, workspace_id)
            if run.finished_at is not None or task.status in TERMINAL or task.workspace_released_at is not None:
                raise Gone(f"the run of workspace {workspace_id} has ended")
            self._record(tx, run, WORKSPACE_OUTCOME, workspace_id, payload, now)
            end_preparation(tx, workspace_id, payload, now)
            return run.id

        self._ringer.ring([self._database.write(work)])
        return {"recorded": True}

    @counted("session_logs")
    def session_logs(
        self, caller: Caller, workspace_id: str, session_id: str, chunk: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Store the next log chunk: ``{"next": number wanted}``. A repeat changes nothing; a gap is not accepted."""
        caller.must_be("workspace", workspace_id)
        try:
            data = base64.b64decode(chunk["data"], validate=True)
        except ValueError as error:  # binascii.Error, or a letter beyond ASCII
            raise UsageError("the chunk is not base64", fields={"data": "not base64"}) from error
        if len(data) > LOG_CHUNK_BYTES_MAX:
            raise UsageError(f"a chunk holds at most {LOG_CHUNK_BYTES_MAX} bytes", fields={"data": "too long"})

        def work(tx: Connection) -> int:
            session = self._session_of(tx, workspace_id, session_id, lock=True)
            last = tx.execute(select(func.max(LogChunk.number)).where(LogChunk.session_id == session_id)).scalar() or 0
            if chunk["number"] != last + 1:
                return int(last) + 1
            # The agent cuts earlier and says so in the log; this bound is for one that does not.
            if session.log_bytes + len(data) > self._settings.log_limit_bytes + 2 * LOG_CHUNK_BYTES_MAX:
                # Not ``Gone``: by that its sender would end everything of the workspace, the outcome too.
                raise UsageError(f"the log of session {session_id} is at its limit", code="log_limit")
            now = self._now()
            tx.execute(insert(LogChunk).values(session_id=session_id, number=chunk["number"], data=data, at=now))
            tx.execute(
                update(AgentSession)
                .where(AgentSession.id == session_id)
                .values(log_bytes=AgentSession.log_bytes + len(data), last_progress_at=now)
            )
            return int(last) + 2

        return {"next": self._database.write(work)}

    @counted("session_outcome", run_of=run_id_of_workspace)
    def session_outcome(
        self, caller: Caller, workspace_id: str, session_id: str, payload: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Record how a session ended.

        After the task's end: a result that comes after a verdict of death is kept and offered (``late_result``), the
        status stays; anything else is ``Gone``.
        """
        caller.must_be("workspace", workspace_id)

        def work(tx: Connection) -> tuple[RunId | None, dict[str, Any]]:
            now = self._now()
            run, task = self._find(tx, workspace_id)
            session = self._session_of(tx, workspace_id, session_id)
            # A repeat is masked the same, and so is equal to what was stored.
            outcome = self._vault.mask_outcome(payload, task.secrets_encrypted)
            if task.status in TERMINAL or task.run_id != run.id or run.finished_at is not None:
                return None, self._late(tx, run, task, session, outcome, now)
            self._record(tx, run, SESSION_OUTCOME, session_id, outcome, now)
            end_session(tx, session_id, outcome, now)
            return run.id, {"recorded": True}

        ring, answer = self._database.write(work)
        if ring is not None:
            self._ringer.ring([ring])
        return answer

    def _late(
        self, tx: Connection, run: RunRow, task: Row[Any], session: Row[Any], payload: Mapping[str, Any], now: float
    ) -> dict[str, Any]:
        verdict = task.error if task.run_id == run.id else run.error  # a rerun forgets the error of the run before
        if (verdict or {}).get("code") not in _LIVENESS_VERDICTS or payload["outcome"] not in _LATE_RESULTS:
            raise Gone(f"the run of session {session.id} has ended")
        known = session.outcome or {}
        if known.get("outcome") in _LATE_RESULTS:
            if payload_hash(known) == payload_hash(payload):
                return {"recorded": True, "late": True}
            raise Gone(f"the run of session {session.id} has ended")
        # Each run's is kept with its session; the task shows the newest run's, beside what a further run makes of it.
        late_session(tx, session.id, payload, now)
        if run.number >= (task.late_result or {}).get("run_number", 0):
            late = {**payload, "run_number": run.number}
            tx.execute(update(Task).where(Task.id == task.id).values(late_result=late))
        append_event(
            tx, owner_id=run.owner_id, subject_kind="task", subject_id=task.id, run_id=run.id, kind="late_result",
            actor="agent", at=now, data={k: payload[k] for k in ("outcome", "exit_code", "commit", "output_branch")},
        )  # fmt: skip
        return {"recorded": True, "late": True}

    # --- shared

    def _record(
        self, tx: Connection, run: RunRow, name: str, subject: str, payload: Mapping[str, Any], now: float
    ) -> None:
        stored = record_answer(tx, run, name, subject, payload, actor="agent", now=now)
        if stored is not None:
            raise Conflict(f"{name} was answered otherwise before", code="already_answered", detail={"stored": stored})

    def _find(self, tx: Connection, workspace_id: str) -> tuple[RunRow, Row[Any]]:
        run = lock_run_of_workspace(tx, workspace_id)
        if run is None:
            raise NotFound(f"no workspace {workspace_id}")
        # Read after the lock: what the run's own runner committed before is seen.
        return run, task_of_workspace(tx, workspace_id)

    def _session_of(self, tx: Connection, workspace_id: str, session_id: str, *, lock: bool = False) -> Row[Any]:
        if lock:
            tx.execute(select(AgentSession.id).where(AgentSession.id == session_id).with_for_update())
        session = get_session(tx, session_id)
        if session is None or session.workspace_id != workspace_id:
            raise NotFound(f"no session {session_id} in workspace {workspace_id}")
        return session


def _check_address(address: str, *, local: bool) -> None:
    """An address that requests with the node's agent token may be sent to. Raises ``UsageError``."""
    try:
        parts = urlsplit(address)
        host, named = parts.hostname or "", parts.port
        check_host(host, private=True)
    except AddressRefused as error:
        raise UsageError(f"the node's address {error}", fields={"address": f"its host {error}"}) from None
    except ValueError:
        raise UsageError("the node's address is no URL", fields={"address": "is no URL"}) from None
    bare = parts.scheme in ("http", "https") and host and named is not None and parts.path in ("", "/")
    if not bare or "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError("the node's address is not one", fields={"address": "must be http(s)://host:port"})
    if local and not is_loopback(host):
        raise UsageError("a local node is reached over loopback only", fields={"address": "must be a loopback address"})
