"""Nodes in SQL: look-ups, and the guarded updates of their life. Who lives on them: ``taskflow.db.workspaces``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, literal, select, update

from taskflow.db.events import append_event
from taskflow.db.models import Node, Owner, Run, Task, Token, Workspace
from taskflow.db.runs import insert_run, record_signal
from taskflow.db.tokens import insert_callback_token
from taskflow.engine.outcomes import Effect, Refused
from taskflow.engine.store import RunRow
from taskflow.ids import NodeId, RunId
from taskflow.protocol import BOOT_STAGES

NODES = Node.__table__
#: Wakes the node's runner when a workspace came or went; its subject says which and what.
WORKSPACE_CHANGED = "workspace_changed"
#: Wakes a run that waits for capacity; its payload names the node where a place is kept for it, or none: look again.
CAPACITY = "capacity"
#: Kind of the event that a node is not heard of; its data is what its agent and its provider said then.
UNREACHABLE = "unreachable"


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
#: What people see of a node beside its row.
_SEEN = (
    live_workspaces_of().label("live_workspaces"), _reserved(Workspace.vcpus).label("reserved_vcpus"),
    _reserved(Workspace.memory_mb).label("reserved_memory_mb"),
)  # fmt: skip
_NODE_OF_OWNER = select(NODES, *_SEEN).where(Node.id == bindparam("of_node"), Node.owner_id == bindparam("of_owner"))
_LOCK_OWNER = select(Owner.id).where(Owner.id == bindparam("of_owner")).with_for_update(key_share=True)
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


def has_node_of(tx: Connection, owner_id: str, provider: str) -> bool:
    """Whether a node of this owner stands at this provider."""
    standing = select(Node.id).where(Node.owner_id == owner_id, Node.provider == provider, Node.destroyed_at.is_(None))
    return tx.execute(standing.limit(1)).first() is not None


def providers_of_nodes(tx: Connection) -> set[str]:
    """Names of the providers at which nodes stand."""
    return set(tx.execute(select(Node.provider).where(Node.destroyed_at.is_(None)).distinct()).scalars())


def list_nodes(
    tx: Connection, owner_id: str, *, with_destroyed: bool = False, limit: int | None = None, before: str | None = None
) -> Sequence[Row[Any]]:
    """Nodes of this owner, newest first, each with ``_SEEN``; ``before``: the id of the last row seen."""
    statement = select(NODES, *_SEEN).where(Node.owner_id == owner_id).order_by(Node.id.desc()).limit(limit)
    if not with_destroyed:
        statement = statement.where(Node.destroyed_at.is_(None))
    if before is not None:
        statement = statement.where(Node.id < before)
    return tx.execute(statement).all()


def get_node(tx: Connection, node_id: str, *, owner_id: str | None = None) -> Row[Any] | None:
    """A node with ``live_workspaces``; ``owner_id`` narrows it for users, who see what is reserved too."""
    if owner_id is None:
        return tx.execute(_NODE, {"of_node": node_id}).first()
    return tx.execute(_NODE_OF_OWNER, {"of_node": node_id, "of_owner": owner_id}).first()


def node_by_ending(tx: Connection, owner_id: str, ending: str) -> Row[Any] | None:
    """The node of this owner whose id ends so; ``ending`` is made of letters and digits."""
    return tx.execute(select(NODES).where(Node.owner_id == owner_id, Node.id.like(f"node-%{ending}")).limit(1)).first()


def destroy_at_once(tx: Connection, node_id: str, run_id: str, error: Mapping[str, Any], now: float) -> list[RunId]:
    """Note as the node's error that nothing is waited for, wake its run, and name the runs of the tasks on it: to be rung.

    The caller holds the lock of the node's run.
    """
    tx.execute(update(Node).where(Node.id == node_id).values(error=dict(error)))
    record_signal(tx, run_id, WORKSPACE_CHANGED, "destroy_at_once", {}, now=now)
    on_it = select(Run.id).join(Task, Task.run_id == Run.id).where(Task.node_id == node_id, Run.finished_at.is_(None))
    return [RunId(row.id) for row in tx.execute(on_it)]


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
    callback_token_expires_at: float | None = None
    size: str = ""
    location: str = ""
    vcpus: float | None = None
    memory_mb: int | None = None
    price_per_hour: float = 0.0
    #: Of the token that fetches the order from the server itself; None where the provider hands it over.
    bootstrap_token_hash: str | None = None
    wish: Mapping[str, Any] = field(default_factory=dict)
    #: It was ordered by hand, by whom: then it stays until somebody lets it go.
    kept: bool = False
    ordered_by: str | None = None


#: Raises ``Refused`` when the owner may not have a further node of this provider. It holds the locks that it counts under.
Guard = Callable[[Connection], None]


def create_node_effect(node: NewNode, guard: Guard, *, now: float) -> Effect:
    """The intent to have a node, with its run and callback token: written before anything is bought."""

    def effect(tx: Connection) -> Iterable[RunId]:
        run = node.run
        guard(tx)
        insert_run(tx, run)
        tx.execute(
            insert(Node).values(
                id=node.id, owner_id=run.owner_id, run_id=run.id, name=node.label, provider=node.provider,
                label=node.label, status="requested", slots=node.slots, created_at=now, placements=literal(0),
                size=node.size, location=node.location, vcpus=node.vcpus, memory_mb=node.memory_mb,
                price_per_hour=node.price_per_hour, wish=dict(node.wish), kept=node.kept,
            )
        )  # fmt: skip
        insert_callback_token(
            tx, owner_id=run.owner_id, scope="node", subject_id=node.id, token_hash=node.callback_token_hash, now=now,
            expires_at=node.callback_token_expires_at,
        )  # fmt: skip
        if node.bootstrap_token_hash is not None:
            tx.execute(
                insert(Token).values(
                    id=f"bootstrap-{node.id}", owner_id=run.owner_id, scope="bootstrap", subject_id=node.id,
                    name=f"bootstrap of {node.id}", token_hash=node.bootstrap_token_hash, created_at=now,
                )
            )  # fmt: skip
        by = {} if node.ordered_by is None else {"ordered_by": node.ordered_by}
        node_event(tx, run.owner_id, node.id, run.id, "requested", now, **by)
        return (run.id,)

    return effect


def claim_order(tx: Connection, node_id: str, claim: str) -> bool:
    """Whether whoever shows this claim may have the node's order: the first one that asks, and it again."""
    tx.execute(update(Node).where(Node.id == node_id, Node.bootstrap_claim.is_(None)).values(bootstrap_claim=claim))
    return bool(tx.execute(select(Node.bootstrap_claim).where(Node.id == node_id)).scalar_one() == claim)


def note_boot_stage(tx: Connection, node_id: str, stage: str, now: float) -> bool:
    """Whether the server's first boot is now further than it was: a stage that comes late or again changes nothing."""
    earlier = BOOT_STAGES[: BOOT_STAGES.index(stage)]
    moved = tx.execute(
        update(Node)
        .where(Node.id == node_id, Node.boot_stage.is_(None) | Node.boot_stage.in_(earlier))
        .values(boot_stage=stage, boot_stage_at=now)
    )
    return moved.rowcount == 1


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


def node_effect(
    node_id: str, to: str, *, run: RunRow, now: float, idle: bool = False, because: str | None = None, **fields: Any
) -> Effect:
    """Change a node's status, and ``fields`` with it. ``idle``: refused while a workspace lives on it. ``because``: what
    its history says beside it.

    Tasks that wait for this node are rung, and when it is gone all that are on it: they re-read it.
    """

    def effect(tx: Connection) -> Iterable[RunId]:
        # The update locks the row; a placement that committed before it is counted by the next statement.
        tx.execute(update(Node).where(Node.id == node_id).values(**fields, status=to))
        if idle and live_count(tx, node_id):
            raise Refused("a workspace lives on the node")
        node_event(tx, run.owner_id, node_id, run.id, to, now, **({"reason": because} if because else {}))
        concerned = (
            select(Run.id).join(Task, Task.run_id == Run.id).where(Task.node_id == node_id, Run.finished_at.is_(None))
        )
        if to not in ("destroyed", "error"):
            concerned = concerned.where(Run.step.in_(("node_provisioning", "node_agent_ready")))
        return [RunId(row.id) for row in tx.execute(concerned).all()]

    return effect


def condemn_effect(node: Row[Any], error: Mapping[str, Any], *, run: RunRow, now: float) -> Effect:
    """The verdict that a node is lost, as ``node`` was read: it takes part in nothing any more, and every run on it is rung
    to read why. Refused when it was heard of meanwhile."""

    def effect(tx: Connection) -> Iterable[RunId]:
        condemned = tx.execute(
            update(Node)
            .where(Node.id == node.id, Node.last_heartbeat_at.is_not_distinct_from(node.last_heartbeat_at))
            .values(status="draining", warm_until=None, error=dict(error))
        )
        if condemned.rowcount != 1:
            raise Refused(f"node {node.id} was heard of")
        node_event(tx, run.owner_id, node.id, run.id, "draining", now, reason=error["message"])
        on_it = select(Run.id).join(Task, Task.run_id == Run.id)
        rows = tx.execute(on_it.where(Task.node_id == node.id, Run.finished_at.is_(None)))
        return [RunId(row.id) for row in rows]

    return effect


def reach_effect(node_id: str, since: float | None, *, run: RunRow, now: float, **found: Any) -> Effect:
    """Note that a node is not heard of ``since`` then, or (None) that it is heard of again, and ring the tasks on it.

    ``found``: what its agent and its provider said when they were asked.
    """

    def effect(tx: Connection) -> Iterable[RunId]:
        tx.execute(update(Node).where(Node.id == node_id).values(unreachable_since=since))
        append_event(
            tx, owner_id=run.owner_id, subject_kind="node", subject_id=node_id, run_id=run.id,
            kind="reachable" if since is None else UNREACHABLE, actor="runner", at=now, data=found,
        )  # fmt: skip
        on_it = select(Run.id).join(Task, Task.run_id == Run.id)
        rows = tx.execute(on_it.where(Task.node_id == node_id, Run.finished_at.is_(None), Run.step == "running"))
        return [RunId(row.id) for row in rows]

    return effect


def live_count(tx: Connection, node_id: str) -> int:
    """Workspaces that hold a slot of the node."""
    return tx.execute(_LIVE_COUNT, {"of_node": node_id}).scalar_one()


def node_event(tx: Connection, owner_id: str, node_id: str, run_id: str, status: str, now: float, **data: Any) -> None:
    """Append a node's status to its history."""
    append_event(
        tx, owner_id=owner_id, subject_kind="node", subject_id=node_id, run_id=run_id, kind="status_changed",
        actor="runner", at=now, data={"to": status, **data},
    )  # fmt: skip
