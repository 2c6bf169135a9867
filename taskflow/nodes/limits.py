"""What an owner and their projects may use: counted here for every way to a place or a node, in the transaction that takes.

``standing`` counts; ``Standing`` says what is refused and why, and changes nothing. Without a row in ``quotas`` there is no
limit, and nothing is counted. A task has a place from when one is kept for it until its workspace is released; that is
what "runs" means here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Row

from taskflow.db.nodes import Guard, lock_owner
from taskflow.db.usage import month_at, nodes_held, places_held, quotas_of, use_of_nodes, use_of_tasks
from taskflow.db.waiting import ranks_by_project
from taskflow.engine.outcomes import Effect, Refused


@dataclass(frozen=True)
class Account:
    """The limits of an owner (``project`` '') or of one of their projects, and what is used of each."""

    project: str = ""
    nodes_max: int | None = None
    running_tasks_max: int | None = None
    node_workspaces_max: int | None = None
    vcpu_hours_max: float | None = None
    budget: float | None = None
    nodes: int = 0
    vcpu_hours: float = 0.0
    cost: float = 0.0
    #: By node, the places that its tasks have there.
    places: Mapping[str, int] = field(default_factory=dict)

    @property
    def running(self) -> int:
        """Tasks that have a place."""
        return sum(self.places.values())

    @property
    def whose(self) -> str:
        """As a text names them."""
        return f"of project {self.project}" if self.project else "of yours"


@dataclass(frozen=True)
class Standing:
    """Where an owner stands in ``month``: an account for each of their rows of limits. Empty: no limits."""

    month: str = ""
    accounts: tuple[Account, ...] = ()

    def no_place(self, project: str) -> str | None:
        """Why a task of this project gets no place anywhere now."""
        for one in self._of(project):
            if one.running_tasks_max is not None and one.running >= one.running_tasks_max:
                return f"{one.running} of {one.running_tasks_max} tasks {one.whose} run"
            if one.vcpu_hours_max is not None and one.vcpu_hours >= one.vcpu_hours_max:
                of = f" of project {one.project}" if one.project else ""
                return f"the {one.vcpu_hours_max:g} vCPU hours{of} for {self.month} are used up: {one.vcpu_hours:.1f}"
        return None

    def no_room(self, project: str, node_id: str) -> str | None:
        """Why a task of this project gets no place on this node now."""
        for one in self._of(project):
            taken = one.places.get(node_id, 0)
            if one.node_workspaces_max is not None and taken >= one.node_workspaces_max:
                return f"{taken} of {one.node_workspaces_max} workspaces {one.whose} are on it"
        return None

    def no_purchase(self, project: str, price_per_hour: float) -> str | None:
        """Why no node of this price is bought for a task of this project now. What costs nothing needs no budget."""
        for one in self._of(project):
            if one.nodes_max is not None and one.nodes >= one.nodes_max:
                return f"{one.nodes} of {one.nodes_max} nodes {one.whose} exist, which is the limit that was set"
            if one.budget is not None and price_per_hour > 0 and one.cost >= one.budget:
                of = f" of project {one.project}" if one.project else ""
                return f"the budget of {one.budget:.2f}{of} for {self.month} is used up: {one.cost:.2f}"
        return None

    def taken(self, project: str, node_id: str) -> Standing:
        """The same after a task of this project was given a place there."""
        mine = self._of(project)
        return replace(
            self,
            accounts=tuple(
                replace(one, places={**one.places, node_id: one.places.get(node_id, 0) + 1}) if one in mine else one
                for one in self.accounts
            ),
        )

    @property
    def projects(self) -> tuple[str, ...]:
        """The projects that have limits of their own."""
        return tuple(one.project for one in self.accounts if one.project)

    def _of(self, project: str) -> tuple[Account, ...]:
        return tuple(one for one in self.accounts if one.project in ("", project))


NO_LIMITS = Standing()


def standing(tx: Connection, owner_id: str, now: float, *, but: str = "") -> Standing:
    """Count what the owner and their projects use of what is limited. ``but``: a task whose own place is not counted.

    For the count to hold, the caller has the owner's lock.
    """
    rows = quotas_of(tx, owner_id)
    if not rows:
        return NO_LIMITS

    def limited(*names: str) -> bool:
        return any(getattr(row, name) is not None for row in rows for name in names)

    month = month_at(now)
    nodes = nodes_held(tx, owner_id) if limited("nodes_max") else 0
    places = places_held(tx, owner_id, but=but) if limited("running_tasks_max", "node_workspaces_max") else {}
    whole = use_of_nodes(tx, owner_id, month, now) if limited("budget") else {}
    parts = use_of_tasks(tx, owner_id, month, now) if limited("budget", "vcpu_hours_max") else {}

    def account(row: Row[Any]) -> Account:
        name = row.project
        there: dict[str, int] = {}
        for (project, node_id), count in places.items():
            if name in ("", project):
                there[node_id] = there.get(node_id, 0) + count
        uses = [use for (_, project), use in parts.items() if name in ("", project)]
        return Account(
            project=name, nodes_max=row.nodes_max, running_tasks_max=row.running_tasks_max,
            node_workspaces_max=row.node_workspaces_max, vcpu_hours_max=row.vcpu_hours_max, budget=row.budget,
            nodes=nodes, vcpu_hours=sum(use.vcpu_hours for use in uses),
            cost=sum(use.cost for use in (uses if name else whole.values())), places=there,
        )  # fmt: skip

    return Standing(month.name, tuple(account(row) for row in rows))


def place_effect(owner_id: str, project: str, task_id: str, node_id: str, now: float) -> Effect:
    """Refused when a limit leaves no place on this node for the task: counted under the owner's lock, if there are limits.

    It goes before the effect that keeps the place.
    """

    def effect(tx: Connection) -> None:
        if not quotas_of(tx, owner_id):
            return
        lock_owner(tx, owner_id)
        found = standing(tx, owner_id, now, but=task_id)
        why = found.no_place(project) or found.no_room(project, node_id)
        if why is not None:
            raise Refused(why)

    return effect


def purchase_guard(owner_id: str, price_per_hour: float, now: float, *, project: str = "", task_id: str = "") -> Guard:
    """Refused when a limit allows no further node, or, with ``task_id``, no place on it for the task that it is for.

    The caller has the owner's lock.
    """

    def check(tx: Connection) -> None:
        found = standing(tx, owner_id, now, but=task_id)
        why = found.no_purchase(project, price_per_hour) or (found.no_place(project) if task_id else None)
        if why is not None:
            raise Refused(why)

    return check


def claims(tx: Connection, provider: str, now: float, *, ageing_s: float) -> dict[str, float]:
    """Owner -> the best rank of their tasks that wait and could run at this provider, those left out that a limit holds.

    Who may not buy has no claim: what is left of an account is not kept for them, and no node is handed over.
    """
    found: dict[str, float] = {}
    stands: dict[str, Standing] = {}
    for (owner_id, project), rank in ranks_by_project(tx, provider, ageing_s=ageing_s).items():
        if owner_id not in stands:
            stands[owner_id] = standing(tx, owner_id, now)
        limits = stands[owner_id]
        if limits.no_place(project) is None and limits.no_purchase(project, 1.0) is None:
            found[owner_id] = min(rank, found.get(owner_id, rank))
    return found
