"""Workspaces and their sessions in SQL: look-ups, and the guarded updates that take and give back slots.

A slot is a workspace row without ``released_at``; there is no counter to leak. Whoever takes one locks the node's row
first and counts in a later statement, so that on PostgreSQL the count sees every placement committed before the lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, literal, select, update

from taskflow.db.models import AgentSession, Node, Run, Task, Workspace
from taskflow.db.nodes import WORKSPACE_CHANGED, live_count
from taskflow.db.runs import consume_signal, get_run, record_answer, record_signal, to_row
from taskflow.db.status import LOCAL_PROVIDER, NODE_USABLE
from taskflow.db.tokens import insert_callback_token
from taskflow.engine.outcomes import Effect, Refused
from taskflow.engine.store import RunRow, SignalArrived
from taskflow.ids import RunId, SessionId, TaskId, WorkspaceId

WORKSPACES = Workspace.__table__
SESSIONS = AgentSession.__table__
#: The questions that a node's reports answer, each once. Their subjects are the workspace's and the session's id.
WORKSPACE_OUTCOME = "workspace_outcome"
SESSION_OUTCOME = "session_outcome"

_RUN_OF_WORKSPACE_LOCKED = (
    select(Run.__table__)
    .join(Workspace, Workspace.run_id == Run.id)
    .where(Workspace.id == bindparam("of_workspace"))
    .with_for_update(of=Run)
)
_TASK_OF_WORKSPACE = (
    select(Task.__table__, Workspace.released_at.label("workspace_released_at"))
    .join(Workspace, Workspace.task_id == Task.id)
    .where(Workspace.id == bindparam("of_workspace"))
)
_WORKSPACE_OF_RUN = select(WORKSPACES).where(Workspace.run_id == bindparam("of_run"))
_SESSION = select(SESSIONS).where(AgentSession.id == bindparam("of_session"))


def lock_run_of_workspace(tx: Connection, workspace_id: str) -> RunRow | None:
    """The run that has this workspace; its row is held until the transaction ends."""
    row = tx.execute(_RUN_OF_WORKSPACE_LOCKED, {"of_workspace": workspace_id}).first()
    return None if row is None else to_row(row)


def task_of_workspace(tx: Connection, workspace_id: str) -> Row[Any]:
    """The task that has or had this workspace, with ``workspace_released_at``."""
    return tx.execute(_TASK_OF_WORKSPACE, {"of_workspace": workspace_id}).one()


def workspace_of_run(tx: Connection, run_id: str) -> Row[Any] | None:
    """The workspace of a run; there is at most one."""
    return tx.execute(_WORKSPACE_OF_RUN, {"of_run": run_id}).first()


def get_session(tx: Connection, session_id: str) -> Row[Any] | None:
    """An agent session by id."""
    return tx.execute(_SESSION, {"of_session": session_id}).first()


def last_output_at(tx: Connection, run_id: str) -> float | None:
    """When the command of a run last wrote something; None: nothing yet that is known, or no command."""
    found = tx.execute(select(AgentSession.last_progress_at).where(AgentSession.run_id == run_id)).first()
    return None if found is None else found.last_progress_at


def reserve_workspace_effect(
    *, workspace_id: WorkspaceId, task_id: TaskId, run: RunRow, node_id: str, callback_token_hash: str, now: float,
    callback_token_expires_at: float | None = None, vcpus: float = 0.0, memory_mb: int = 0,
) -> Effect:  # fmt: skip
    """Take a slot (or a warm node) for a run, and reserve a part of it. Refused when the node is not usable or full.

    On a local node the token does not expire: it never leaves the machine, which may sleep for days.
    """

    def effect(tx: Connection) -> Iterable[RunId]:
        node = tx.execute(select(Node.run_id).where(Node.id == node_id, Node.owner_id == run.owner_id)).first()
        if node is None:
            raise Refused(f"there is no node {node_id}")
        # The node's run first, then the node: the same order in which the node's own runner locks them.
        get_run(tx, node.run_id, lock=True)
        taken = tx.execute(
            update(Node)
            .where(Node.id == node_id, Node.status.in_(NODE_USABLE))
            .values(status="active", warm_until=None, placements=Node.placements + 1)
            .returning(Node.slots, Node.run_id, Node.vcpus, Node.memory_mb, Node.provider)
        ).first()
        if taken is None:
            raise Refused(f"node {node_id} is not usable any more")
        if live_count(tx, node_id) >= taken.slots:
            raise Refused(f"node {node_id} is full")
        if vcpus or memory_mb:
            _must_have_left(tx, node_id, taken, vcpus, memory_mb)
        tx.execute(
            insert(Workspace).values(
                id=workspace_id, owner_id=run.owner_id, task_id=task_id, run_id=run.id, node_id=node_id,
                status="reserved", reserved_at=now, vcpus=vcpus, memory_mb=memory_mb,
            )
        )  # fmt: skip
        insert_callback_token(
            tx, owner_id=run.owner_id, scope="workspace", subject_id=workspace_id, token_hash=callback_token_hash,
            now=now, expires_at=None if taken.provider == LOCAL_PROVIDER else callback_token_expires_at,
        )  # fmt: skip
        return _tell_node(tx, taken.run_id, f"{workspace_id}:reserved", now)

    return effect


def _must_have_left(tx: Connection, node_id: str, node: Any, vcpus: float, memory_mb: int) -> None:
    """Raises ``Refused``. The caller holds the node's row."""
    reserved = tx.execute(
        select(
            func.coalesce(func.sum(Workspace.vcpus), 0).label("vcpus"),
            func.coalesce(func.sum(Workspace.memory_mb), 0).label("memory_mb"),
        ).where(Workspace.node_id == node_id, Workspace.released_at.is_(None))
    ).one()
    for name, wanted in (("vcpus", vcpus), ("memory_mb", memory_mb)):
        whole = getattr(node, name)
        if wanted and (whole is None or whole - getattr(reserved, name) < wanted):
            raise Refused(f"node {node_id} has no {wanted:g} {name} left")


def release_workspace_effect(workspace_id: str, *, now: float, status_error: Mapping[str, Any] | None = None) -> Effect:
    """Give the slot back and tell the node's runner. Who gets it is the admission's: its effect comes after this one."""

    def effect(tx: Connection) -> Iterable[RunId]:
        released = tx.execute(
            update(Workspace)
            .where(Workspace.id == workspace_id, Workspace.released_at.is_(None))
            .values(status="released", released_at=now, **({"error": dict(status_error)} if status_error else {}))
            .returning(Workspace.node_id)
        ).first()
        if released is None:
            return ()
        node = tx.execute(select(Node.run_id).where(Node.id == released.node_id)).one()
        return _tell_node(tx, node.run_id, f"{workspace_id}:released", now)

    return effect


def _tell_node(tx: Connection, node_run_id: str, subject: str, now: float) -> Iterable[RunId]:
    run = get_run(tx, node_run_id, lock=True)
    if run is None or run.finished_at is not None:
        return ()
    record_signal(tx, node_run_id, WORKSPACE_CHANGED, subject, {}, now=now)
    return (RunId(node_run_id),)


def dispatched_effect(workspace_id: str, *, now: float) -> Effect:
    """The node acknowledged the workspace. Its callback may have come first: then it stays what that said."""

    def effect(tx: Connection) -> None:
        tx.execute(update(Workspace).where(Workspace.id == workspace_id).values(dispatched_at=now))
        tx.execute(
            update(Workspace)
            .where(Workspace.id == workspace_id, Workspace.status == "reserved")
            .values(status="dispatched")
        )

    return effect


def workspace_asked_effect(run: RunRow, workspace_id: str, answer: Mapping[str, Any], *, now: float) -> Effect:
    """What the node said when it was asked counts like its callback: the same one is a repeat, another a contradiction.

    Raises ``SignalArrived`` when the callback came in the meantime and said something else: then that counts.
    """

    def effect(tx: Connection) -> None:
        if record_answer(tx, run, WORKSPACE_OUTCOME, workspace_id, answer, actor="runner", now=now) is not None:
            raise SignalArrived
        consume_signal(tx, run.id, WORKSPACE_OUTCOME, workspace_id, now=now)
        end_preparation(tx, workspace_id, answer, now)

    return effect


def end_preparation(tx: Connection, workspace_id: str, outcome: Mapping[str, Any], now: float) -> None:
    """Mark a workspace ready or failed. Guarded: an outcome moves a workspace on, it never brings one back."""
    tx.execute(
        update(Workspace)
        .where(Workspace.id == workspace_id, Workspace.status.in_(("reserved", "dispatched")))
        .values(
            status=outcome["status"], base_commit=outcome["base_commit"], error=outcome["error"],
            **({"ready_at": now} if outcome["status"] == "ready" else {}),
        )
    )  # fmt: skip


def start_session_effect(*, session_id: SessionId, workspace_id: str, task_id: str, run: RunRow, now: float) -> Effect:
    """The intent to run the command, written before the node is asked: its log and outcome have a place."""

    def effect(tx: Connection) -> None:
        known = tx.execute(select(AgentSession.id).where(AgentSession.id == session_id)).first()
        if known is None:
            tx.execute(
                insert(AgentSession).values(
                    id=session_id, owner_id=run.owner_id, task_id=task_id, run_id=run.id,
                    workspace_id=workspace_id, status="started", started_at=now, log_bytes=literal(0),
                )
            )  # fmt: skip

    return effect


def end_session_effect(session_id: str, outcome: Mapping[str, Any], *, now: float) -> Effect:
    """Mark a session ended with ``outcome``, unless it already is."""

    def effect(tx: Connection) -> None:
        end_session(tx, session_id, outcome, now)

    return effect


def end_session(tx: Connection, session_id: str, outcome: Mapping[str, Any], now: float) -> bool:
    """Mark a session ended; False when it already was."""
    changed = tx.execute(
        update(AgentSession)
        .where(AgentSession.id == session_id, AgentSession.ended_at.is_(None))
        .values(status="ended", outcome=dict(outcome), ended_at=now)
    )
    return changed.rowcount == 1


def late_session(tx: Connection, session_id: str, outcome: Mapping[str, Any], now: float) -> None:
    """Write how a session that was taken for dead ended after all."""
    ended_at = func.coalesce(AgentSession.ended_at, now)
    tx.execute(
        update(AgentSession)
        .where(AgentSession.id == session_id)
        .values(status="ended", outcome=dict(outcome), ended_at=ended_at)
    )
