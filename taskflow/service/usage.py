"""What an owner used in a month, and the limits of that: shown to the owner, set by who operates the installation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, select

from taskflow.clock import isoformat
from taskflow.db.models import Owner
from taskflow.db.nodes import lock_owner
from taskflow.db.session import Database
from taskflow.db.usage import (
    LIMITS,
    NOTHING,
    Month,
    Use,
    all_quotas,
    month_at,
    month_named,
    quotas_of,
    use_of_nodes,
    use_of_tasks,
    write_quota,
)
from taskflow.errors import NotFound, UsageError
from taskflow.service.accounts import Caller
from taskflow.service.views import money

#: The least that a limit may be, and the most; a node without a place would be bought for nothing.
_LEAST = {"node_workspaces_max": 1}
_MOST = 1e9


class Usage:
    """See the module."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now

    def month(self, caller: Caller, month: str | None = None) -> dict[str, Any]:
        """What the caller's nodes and tasks used in a month (like 2026-11; default: the present one) so far.

        By provider and by project, with the limits in force now. Raises ``UsageError`` when it is no month.
        """
        now = self._now()
        asked = _month(month, now)
        with self._database.read() as tx:
            nodes = use_of_nodes(tx, caller.owner_id, asked, now)
            places = use_of_tasks(tx, caller.owner_id, asked, now)
            limits = {row.project: limits_view(row) for row in quotas_of(tx, caller.owner_id)}
        whole, used = _sum(nodes.values()), _sum(places.values())
        projects = {project for _, project in places} | {name for name in limits if name}
        return {
            "month": asked.name,
            "from": isoformat(asked.begins_at),
            "until": isoformat(max(asked.begins_at, min(asked.ends_at, now))),
            **_shown(whole, used),
            "limits": limits.get("", NO_LIMITS),
            "providers": [
                {
                    "name": name,
                    "nodes": nodes[name].count,
                    **_shown(nodes[name], _sum(use for (provider, _), use in places.items() if provider == name)),
                }
                for name in sorted(nodes)
            ],
            "projects": [
                {
                    "name": name,
                    **_shown_tasks(_sum(use for (_, project), use in places.items() if project == name)),
                    "limits": limits.get(name, NO_LIMITS) if name else NO_LIMITS,
                }
                for name in sorted(projects)
            ],
        }

    # --- limits: for who operates the installation

    def quotas(self) -> list[dict[str, Any]]:
        """The limits of all owners and projects that have any."""
        with self._database.read() as tx:
            return [{"owner": row.owner, "project": row.project, **limits_view(row)} for row in all_quotas(tx)]

    def set_quota(self, owner: str, project: str, values: Mapping[str, float | None]) -> dict[str, Any]:
        """Set limits of an owner (``project`` '') or of one of their projects; None takes one away, what is left out stays.

        Whoever waits for one looks again. Raises ``NotFound`` for an owner without tokens, ``UsageError``.
        """
        _check(project, values)
        now = self._now()

        def work(tx: Connection) -> Mapping[str, Any]:
            row = tx.execute(select(Owner.id).where(Owner.name == owner)).first()
            if row is None:
                raise NotFound(
                    f"no owner {owner}", fields={"owner": "unknown"}, advice="a token makes one: taskflow token create"
                )
            lock_owner(tx, row.id)
            write_quota(tx, row.id, project, values, now)
            left = (limits_view(one) for one in quotas_of(tx, row.id) if one.project == project)
            return next(left, NO_LIMITS)

        return {"owner": owner, "project": project, **self._database.write(work)}


NO_LIMITS: Mapping[str, Any] = dict.fromkeys(LIMITS)


def limits_view(row: Row[Any]) -> dict[str, Any]:
    """The limits of a row of quotas, by name; None: no limit."""
    return {name: getattr(row, name) for name in LIMITS}


def _month(name: str | None, now: float) -> Month:
    if name is None:
        return month_at(now)
    try:
        return month_named(name)
    except ValueError:
        raise UsageError(f"{name!r} is no month", fields={"month": "must be like 2026-11"}) from None


def _sum(uses: Iterable[Use]) -> Use:
    return sum(uses, NOTHING)


def _shown(nodes: Use, tasks: Use) -> dict[str, Any]:
    """What nodes used, and of that what tasks used; the rest is idle."""
    return {
        "node_seconds": round(nodes.seconds, 1),
        "vcpu_hours": round(tasks.vcpu_hours, 3),
        "cost": money(nodes.cost),
        "tasks_cost": money(tasks.cost),
        "idle_cost": money(max(0.0, nodes.cost - tasks.cost)),
    }


def _shown_tasks(tasks: Use) -> dict[str, Any]:
    return {
        "tasks": tasks.count,
        "task_seconds": round(tasks.seconds, 1),
        "vcpu_hours": round(tasks.vcpu_hours, 3),
        "cost": money(tasks.cost),
    }


def _check(project: str, values: Mapping[str, float | None]) -> None:
    if not values:
        raise UsageError("no limit was named", fields={"limits": "name at least one"})
    if project and values.get("nodes_max") is not None:
        raise UsageError(
            "nodes belong to an owner, not to a project", fields={"nodes_max": "is not for a project"},
            advice="limit the tasks of the project that run at once, or its budget",
        )  # fmt: skip
    for name, value in values.items():
        least = _LEAST.get(name, 0)
        if value is not None and not (math.isfinite(value) and least <= value <= _MOST):
            raise UsageError(f"{name} must be from {least} to {_MOST:.0f}", fields={name: "out of range"})
