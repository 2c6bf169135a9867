"""What nodes cost and what tasks used of them, and the limits of that: computed from rows when asked, never counted up.

A node costs its price from the purchase to its end, by the second. A task's share of it is the price of one slot while its
workspace lives there, and the cores that it reserved; one that reserved none has those of a slot. What no task used of a
node is idle, and its owner's. Money is in the currency of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from taskflow.db.events import promise
from taskflow.db.models import Node, Owner, Quota, Task, Workspace
from taskflow.db.status import LOCAL_PROVIDER

#: Outbox kind: what an owner may use was changed, whoever of theirs waits looks again.
LIMITS_CHANGED = "limits_changed"
#: The limits of a row of ``quotas``, by their columns.
LIMITS = ("nodes_max", "running_tasks_max", "node_workspaces_max", "vcpu_hours_max", "budget")
_HOUR_S = 3600.0


@dataclass(frozen=True)
class Month:
    """A calendar month in UTC: from ``begins_at`` up to, and without, ``ends_at``."""

    name: str
    begins_at: float
    ends_at: float


def month_named(name: str) -> Month:
    """The month written like 2026-11. Raises ``ValueError``."""
    begin = datetime.strptime(name, "%Y-%m").replace(tzinfo=timezone.utc)
    end = begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1)
    return Month(f"{begin:%Y-%m}", begin.timestamp(), end.timestamp())


def month_at(at: float) -> Month:
    """The month of a point in time."""
    return month_named(f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m}")


@dataclass(frozen=True)
class Use:
    """What was used: ``seconds`` of nodes or of places on them, core seconds, money; of how many nodes or tasks."""

    seconds: float = 0.0
    vcpu_seconds: float = 0.0
    cost: float = 0.0
    count: int = 0

    @property
    def vcpu_hours(self) -> float:
        """The core seconds in hours."""
        return self.vcpu_seconds / _HOUR_S

    def __add__(self, other: Use) -> Use:
        return Use(
            self.seconds + other.seconds, self.vcpu_seconds + other.vcpu_seconds, self.cost + other.cost,
            self.count + other.count,
        )  # fmt: skip


NOTHING = Use()


def node_use(node: Row[Any], now: float) -> Use:
    """What one node used from its purchase to its end, or to now. Nothing while no server of it was bought."""
    began = node.bought_at if node.bought_at is not None else node.created_at if node.server_id is not None else None
    if began is None:
        return NOTHING
    seconds = max(0.0, (now if node.destroyed_at is None else node.destroyed_at) - began)
    return Use(seconds, seconds * float(node.vcpus or 0.0), seconds * float(node.price_per_hour) / _HOUR_S, 1)


# --- the same in SQL


def _later(one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((one > other, one), else_=other)


def _earlier(one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((one < other, one), else_=other)


def _at(name: str) -> ColumnElement[float]:
    return bindparam(name, type_=Node.__table__.c.created_at.type)


_SINCE, _UNTIL = _at("since"), _at("until")
_OF_OWNER = Node.owner_id == bindparam("of_owner")
#: When a node began to cost; rows of before purchases were timed have their beginning instead. NULL: never bought.
_BEGAN = func.coalesce(Node.bought_at, case((Node.server_id.is_not(None), Node.created_at)))
_ENDED = func.coalesce(Node.destroyed_at, _UNTIL)
_NODE_IN_TIME = and_(
    _SINCE < _UNTIL, _BEGAN.is_not(None), _BEGAN < _UNTIL, or_(Node.destroyed_at.is_(None), Node.destroyed_at > _SINCE)
)  # fmt: skip


def _overlap(began: Any, ended: ColumnElement[Any]) -> ColumnElement[Any]:
    """Seconds of a stay that lie within the time that is asked about."""
    found = _earlier(ended, _UNTIL) - _later(began, _SINCE)
    return case((found > 0, found), else_=literal(0.0))


def _sum(of: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.coalesce(func.sum(of), 0.0)


_NODE_S = _overlap(_BEGAN, _ENDED)
_NODES = (
    select(
        Node.provider,
        func.count().label("count"),
        _sum(_NODE_S).label("seconds"),
        _sum(_NODE_S * func.coalesce(Node.vcpus, 0.0)).label("vcpu_seconds"),
        _sum(_NODE_S * Node.price_per_hour / _HOUR_S).label("cost"),
    )
    .where(_OF_OWNER, _NODE_IN_TIME)
    .group_by(Node.provider)
)
#: A place is used until it is released, but no longer than its node stood.
_PLACE_S = _overlap(Workspace.reserved_at, _earlier(func.coalesce(Workspace.released_at, _UNTIL), _ENDED))
_PLACE_VCPUS = case((Workspace.vcpus > 0, Workspace.vcpus), else_=func.coalesce(Node.vcpus / Node.slots, 0.0))
_PLACE_SUMS = (
    func.count(Workspace.task_id.distinct()).label("count"),
    _sum(_PLACE_S).label("seconds"),
    _sum(_PLACE_S * _PLACE_VCPUS).label("vcpu_seconds"),
    _sum(_PLACE_S * Node.price_per_hour / Node.slots / _HOUR_S).label("cost"),
)
_PLACES = (
    select(Node.provider, Task.project, *_PLACE_SUMS)
    .select_from(Node)
    .join(Workspace, Workspace.node_id == Node.id)
    .join(Task, Task.id == Workspace.task_id)
    .where(_OF_OWNER, _NODE_IN_TIME, Workspace.reserved_at < _UNTIL)
    .where(or_(Workspace.released_at.is_(None), Workspace.released_at > _SINCE))
    .group_by(Node.provider, Task.project)
)
_PLACES_OF_TASK = (
    select(*_PLACE_SUMS)
    .select_from(Workspace)
    .join(Node, Node.id == Workspace.node_id)
    .where(Workspace.task_id == bindparam("of_task"))
)


def _use(row: Row[Any]) -> Use:
    # ``count`` is a method of every row.
    found = row._mapping
    return Use(float(found["seconds"]), float(found["vcpu_seconds"]), float(found["cost"]), int(found["count"]))


def _within(month: Month, now: float) -> dict[str, float]:
    return {"since": month.begins_at, "until": min(month.ends_at, now)}


def use_of_nodes(tx: Connection, owner_id: str, month: Month, now: float) -> dict[str, Use]:
    """By provider, what the owner's nodes used in a month so far."""
    rows = tx.execute(_NODES, {"of_owner": owner_id, **_within(month, now)})
    return {row.provider: _use(row) for row in rows}


def use_of_tasks(tx: Connection, owner_id: str, month: Month, now: float) -> dict[tuple[str, str], Use]:
    """By (provider, project), what the owner's tasks used of the nodes in a month so far."""
    rows = tx.execute(_PLACES, {"of_owner": owner_id, **_within(month, now)})
    return {(row.provider, row.project): _use(row) for row in rows}


def use_of_task(tx: Connection, task_id: str, now: float) -> Use:
    """What one task used so far, all its runs together."""
    return _use(tx.execute(_PLACES_OF_TASK, {"of_task": task_id, "since": 0.0, "until": now}).one())


# --- limits, and what counts against them now

_QUOTAS = select(Quota.__table__).where(Quota.owner_id == bindparam("of_owner")).order_by(Quota.project)
_NODES_HELD = select(func.count()).where(
    _OF_OWNER, Node.destroyed_at.is_(None), or_(Node.status != "error", Node.provider != LOCAL_PROVIDER)
)
_PLACES_TAKEN = (
    select(Task.project, Workspace.node_id, func.count().label("places"))
    .select_from(Workspace)
    .join(Task, Task.id == Workspace.task_id)
    .where(Workspace.owner_id == bindparam("of_owner"), Workspace.released_at.is_(None), Task.id != bindparam("but"))
    .group_by(Task.project, Workspace.node_id)
)
_PLACES_KEPT = (
    select(Task.project, Task.node_id, func.count().label("places"))
    .where(Task.owner_id == bindparam("of_owner"), Task.status == "queued", Task.node_id.is_not(None))
    .where(Task.id != bindparam("but"))
    .group_by(Task.project, Task.node_id)
)


def quotas_of(tx: Connection, owner_id: str) -> Sequence[Row[Any]]:
    """The owner's limits: those of everything of theirs (project '') first, then those of their projects."""
    return tx.execute(_QUOTAS, {"of_owner": owner_id}).all()


def all_quotas(tx: Connection) -> Sequence[Row[Any]]:
    """The limits of all owners, each with the owner's name as ``owner``."""
    return tx.execute(
        select(Quota.__table__, Owner.name.label("owner"))
        .join(Owner, Owner.id == Quota.owner_id)
        .order_by(Owner.name, Quota.project)
    ).all()


def nodes_held(tx: Connection, owner_id: str) -> int:
    """Nodes of the owner that are being made or stand; one whose destruction failed may still be paid for."""
    return tx.execute(_NODES_HELD, {"of_owner": owner_id}).scalar_one()


def places_held(tx: Connection, owner_id: str, *, but: str = "") -> dict[tuple[str, str], int]:
    """(project, node) -> places that the owner's tasks have there: workspaces that are not released, and places that are
    kept for tasks on their way. ``but``: a task whose own place is left out."""
    found: dict[tuple[str, str], int] = {}
    for statement in (_PLACES_TAKEN, _PLACES_KEPT):
        for row in tx.execute(statement, {"of_owner": owner_id, "but": but}):
            key = (row.project, row.node_id)
            found[key] = found.get(key, 0) + row.places
    return found


def write_quota(tx: Connection, owner_id: str, project: str, values: Mapping[str, float | None], now: float) -> None:
    """Set some limits of an owner or a project (None: no limit any more) and promise that whoever waits looks again.

    The caller holds the owner's lock.
    """
    here = and_(Quota.owner_id == owner_id, Quota.project == project)
    changed = tx.execute(update(Quota).where(here).values(**values, changed_at=now))
    if changed.rowcount == 0:
        tx.execute(insert(Quota).values(owner_id=owner_id, project=project, **values, changed_at=now))
    tx.execute(delete(Quota).where(here, *(getattr(Quota, name).is_(None) for name in LIMITS)))
    promise(tx, LIMITS_CHANGED, {"owner_id": owner_id}, now, owner_id=owner_id)
