"""Nodes, workspaces and sessions in SQL: look-ups, and the guarded updates that take and give back slots.

A slot is a workspace row without ``released_at``; there is no counter to leak. Whoever takes one locks the node's row
first and counts in a later statement, so that on PostgreSQL the count sees every placement committed before the lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, literal, select, update

from taskflow.db.events import append_event
from taskflow.db.models import AgentSession, Node, Owner, Run, Task, Token, Workspace
from taskflow.db.runs import consume_signal, get_run, insert_run, record_answer, record_signal, to_row
from taskflow.db.status import NODE_USABLE
from taskflow.engine.outcomes import Effect, Refused
from taskflow.engine.store import RunRow, SignalArrived
from taskflow.ids import NodeId, RunId, SessionId, TaskId, WorkspaceId

NODES = Node.__table__
WORKSPACES = Workspace.__table__
SESSIONS = AgentSession.__table__
#: Wakes the node's runner when a workspace came or went; its subject says which and what.
WORKSPACE_CHANGED = "workspace_changed"
#: The questions that a node's reports answer, each once. Their subjects are the workspace's and the session's id.
WORKSPACE_OUTCOME = "workspace_outcome"
SESSION_OUTCOME = "session_outcome"
#: Wakes a run that waits for capacity; its payload names the node where a place is kept for it, or none: look again.
CAPACITY = "capacity"


def live_workspaces_of() -> Any:
    """How many workspaces hold a slot of the node of an outer statement."""
    return (
        select(func.count())
        .select_from(Workspace)
        .where(Workspace.node_id == Node.id, Workspace.released_at.is_(None))
        .scalar_subquery()
    )


def _expected() -> Any:
    """Tasks that chose the node and have no workspace yet. One that waits for capacity chose none."""
    return (
        select(func.count()).select_from(Task).where(Task.node_id == Node.id, Task.status == "queued").scalar_subquery()
    )


def _reserved(column: Any) -> Any:
    return (
        select(func.coalesce(func.sum(column), 0))
        .where(Workspace.node_id == Node.id, Workspace.released_at.is_(None))
        .scalar_subquery()
    )


_NODE = select(NODES, live_workspaces_of().label("live_workspaces")).where(Node.id == bindparam("of_node"))
_NODE_OF_OWNER = _NODE.where(Node.owner_id == bindparam("of_owner"))
_LOCK_OWNER = select(Owner.id).where(Owner.id == bindparam("of_owner")).with_for_update(key_share=True)
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
_LIVE_COUNT = (
    select(func.count())
    .select_from(Workspace)
    .where(Workspace.node_id == bindparam("of_node"), Workspace.released_at.is_(None))
)


def candidates(tx: Connection, owner_id: str) -> Sequence[Row[Any]]:
    """Every node of this owner that is neither destroyed nor given up, oldest first; with each ``live_workspaces``, the
    ``expected`` tasks on their way to it, and what is reserved of it (``reserved_vcpus``, ``reserved_memory_mb``)."""
    return tx.execute(
        select(
            NODES,
            live_workspaces_of().label("live_workspaces"),
            _expected().label("expected"),
            _reserved(Workspace.vcpus).label("reserved_vcpus"),
            _reserved(Workspace.memory_mb).label("reserved_memory_mb"),
        )
        .where(Node.owner_id == owner_id, Node.destroyed_at.is_(None), Node.status != "error")
        .order_by(Node.id)
    ).all()


def nodes_by_label(tx: Connection, provider: str, labels: Sequence[str]) -> dict[str, Row[Any]]:
    """By label, a provider's nodes that are not destroyed, and of those that are, the ones with one of ``labels``."""
    standing = tx.execute(select(NODES).where(Node.provider == provider, Node.destroyed_at.is_(None)))
    found = {row.label: row for row in standing}
    for begin in range(0, len(labels), 500):
        named = tx.execute(select(NODES).where(Node.label.in_(labels[begin : begin + 500])))
        found |= {row.label: row for row in named}
    return found


def list_nodes(tx: Connection, owner_id: str, *, with_destroyed: bool = False) -> Sequence[Row[Any]]:
    """Nodes of this owner, newest first, each with ``live_workspaces``."""
    statement = (
        select(NODES, live_workspaces_of().label("live_workspaces"))
        .where(Node.owner_id == owner_id)
        .order_by(Node.id.desc())
    )
    if not with_destroyed:
        statement = statement.where(Node.destroyed_at.is_(None))
    return tx.execute(statement).all()


def get_node(tx: Connection, node_id: str, *, owner_id: str | None = None) -> Row[Any] | None:
    """A node with ``live_workspaces``; ``owner_id`` narrows it for users, the runner asks without."""
    if owner_id is None:
        return tx.execute(_NODE, {"of_node": node_id}).first()
    return tx.execute(_NODE_OF_OWNER, {"of_node": node_id, "of_owner": owner_id}).first()


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


def set_node_run(tx: Connection, node_id: str, run_id: str) -> None:
    """Give a node another run."""
    tx.execute(update(Node).where(Node.id == node_id).values(run_id=run_id))


# --- effects: parts of somebody's apply


@dataclass(frozen=True)
class NewNode:
    """A node to be had: its ids, and what is ordered for it. ``wish`` is what another offer in its place has to meet."""

    id: NodeId
    run: RunRow
    label: str
    provider: str
    slots: int
    callback_token_hash: str
    size: str = ""
    location: str = ""
    vcpus: float | None = None
    memory_mb: int | None = None
    price_per_hour: float = 0.0
    #: Of the token that fetches the order from the server itself; None where the provider hands it over.
    bootstrap_token_hash: str | None = None
    wish: Mapping[str, Any] = field(default_factory=dict)


#: Raises ``Refused`` when the owner may not have a further node of this provider. It holds the locks that it counts under.
Guard = Callable[[Connection], None]


def create_node_effect(node: NewNode, guard: Guard, *, now: float) -> Effect:
    """The intent to have a node, with its run and callback token: written before anything is bought."""

    def effect(tx: Connection) -> Iterable[RunId]:
        run = node.run
        guard(tx)
        insert_run(tx, run, created_at=now)
        tx.execute(
            insert(Node).values(
                id=node.id, owner_id=run.owner_id, run_id=run.id, name=node.label, provider=node.provider,
                label=node.label, status="requested", slots=node.slots, created_at=now, placements=literal(0),
                size=node.size, location=node.location, vcpus=node.vcpus, memory_mb=node.memory_mb,
                price_per_hour=node.price_per_hour, wish=dict(node.wish),
            )
        )  # fmt: skip
        tx.execute(
            insert(Token).values(
                id=f"token-{node.id}", owner_id=run.owner_id, scope="node", subject_id=node.id,
                name=f"callbacks of {node.id}", token_hash=node.callback_token_hash, created_at=now,
            )
        )  # fmt: skip
        if node.bootstrap_token_hash is not None:
            tx.execute(
                insert(Token).values(
                    id=f"bootstrap-{node.id}", owner_id=run.owner_id, scope="bootstrap", subject_id=node.id,
                    name=f"bootstrap of {node.id}", token_hash=node.bootstrap_token_hash, created_at=now,
                )
            )  # fmt: skip
        node_event(tx, run.owner_id, node.id, run.id, "requested", now)
        return (run.id,)

    return effect


def claim_order(tx: Connection, node_id: str, claim: str) -> bool:
    """Whether whoever shows this claim may have the node's order: the first one that asks, and it again."""
    tx.execute(update(Node).where(Node.id == node_id, Node.bootstrap_claim.is_(None)).values(bootstrap_claim=claim))
    return bool(tx.execute(select(Node.bootstrap_claim).where(Node.id == node_id)).scalar_one() == claim)


def revoke_bootstrap(tx: Connection, node_id: str, now: float) -> None:
    """The node's agent is there: nobody needs its order any more."""
    tx.execute(
        update(Token)
        .where(Token.subject_id == node_id, Token.scope == "bootstrap", Token.revoked_at.is_(None))
        .values(revoked_at=now)
    )


def lock_owner(tx: Connection, owner_id: str) -> None:
    """Serialise what is counted per owner (PostgreSQL; SQLite has one writer anyway).

    The weaker lock (``FOR NO KEY UPDATE``): rows that only refer to the owner, such as events, are not held up by it.
    """
    tx.execute(_LOCK_OWNER, {"of_owner": owner_id})


def node_effect(node_id: str, to: str, *, run: RunRow, now: float, idle: bool = False, **fields: Any) -> Effect:
    """Change a node's status, and ``fields`` with it. ``idle``: refused while a workspace lives on it.

    Tasks that wait for this node are rung, and when it is gone all that are on it: they re-read it.
    """

    def effect(tx: Connection) -> Iterable[RunId]:
        # The update locks the row; a placement that committed before it is counted by the next statement.
        tx.execute(update(Node).where(Node.id == node_id).values(**fields, status=to))
        if idle and live_count(tx, node_id):
            raise Refused("a workspace lives on the node")
        node_event(tx, run.owner_id, node_id, run.id, to, now)
        concerned = (
            select(Run.id).join(Task, Task.run_id == Run.id).where(Task.node_id == node_id, Run.finished_at.is_(None))
        )
        if to not in ("destroyed", "error"):
            concerned = concerned.where(Run.step.in_(("node_provisioning", "node_agent_ready")))
        return [RunId(row.id) for row in tx.execute(concerned).all()]

    return effect


def reach_effect(node_id: str, since: float | None, *, run: RunRow, now: float, **found: Any) -> Effect:
    """Note that a node is not heard of ``since`` then, or (None) that it is heard of again, and ring the tasks on it.

    ``found``: what its agent and its provider said when they were asked.
    """

    def effect(tx: Connection) -> Iterable[RunId]:
        tx.execute(update(Node).where(Node.id == node_id).values(unreachable_since=since))
        append_event(
            tx, owner_id=run.owner_id, subject_kind="node", subject_id=node_id, run_id=run.id,
            kind="reachable" if since is None else "unreachable", actor="runner", at=now, data=found,
        )  # fmt: skip
        on_it = select(Run.id).join(Task, Task.run_id == Run.id)
        rows = tx.execute(on_it.where(Task.node_id == node_id, Run.finished_at.is_(None), Run.step == "running"))
        return [RunId(row.id) for row in rows]

    return effect


def reserve_workspace_effect(
    *, workspace_id: WorkspaceId, task_id: TaskId, run: RunRow, node_id: str, callback_token_hash: str, now: float,
    vcpus: float = 0.0, memory_mb: int = 0,
) -> Effect:  # fmt: skip
    """Take a slot (or a warm node) for a run, and reserve a part of it. Refused when the node is not usable or full."""

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
            .returning(Node.slots, Node.run_id, Node.vcpus, Node.memory_mb)
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
        tx.execute(
            insert(Token).values(
                id=f"token-{workspace_id}", owner_id=run.owner_id, scope="workspace", subject_id=workspace_id,
                name=f"callbacks of {workspace_id}", token_hash=callback_token_hash, created_at=now,
            )
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


def live_count(tx: Connection, node_id: str) -> int:
    """Workspaces that hold a slot of the node."""
    return tx.execute(_LIVE_COUNT, {"of_node": node_id}).scalar_one()


def node_event(tx: Connection, owner_id: str, node_id: str, run_id: str, status: str, now: float, **data: Any) -> None:
    """Append a node's status to its history."""
    append_event(
        tx, owner_id=owner_id, subject_kind="node", subject_id=node_id, run_id=run_id, kind="status_changed",
        actor="runner", at=now, data={"to": status, **data},
    )  # fmt: skip
