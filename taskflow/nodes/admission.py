"""Who of those who wait gets what became free: asked in the transaction that frees it, and in the one that begins to wait.

Both take the owner's lock first, so that one of them sees the other: no release is missed. The place is kept for whom it
was given to by the task's ``node_id``, and the signal is a row of the same commit, so that a process that dies before it
rings loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row

from taskflow.db.nodes import candidates, lock_owner
from taskflow.db.providers import accounts, server_counts
from taskflow.db.waiting import first_waiting, give_place
from taskflow.engine.outcomes import Effect
from taskflow.ids import RunId
from taskflow.nodes.catalogue import Offer
from taskflow.nodes.context import StepTools
from taskflow.nodes.limits import NO_LIMITS, Standing, claims, standing
from taskflow.nodes.purchase import Market, market
from taskflow.nodes.retirement import speaks_this_protocol
from taskflow.nodes.selector import REQUIRE, Candidate, Choice, Limits, Wish, select

#: How many of those who wait are looked at when something became free. More would hardly fit where these did not.
_PAGE = 50
_PLACES = ("use", "await_node")


@dataclass(frozen=True)
class Situation:
    """What a choice is made from: an owner's nodes, and what may be bought."""

    nodes: tuple[Candidate, ...]
    market: Market
    limits: Limits
    #: Everything that could ever be bought.
    catalogue: tuple[Offer, ...] = ()
    #: The limits that were set for the owner, and what is used of them.
    standing: Standing = NO_LIMITS

    def choose(self, wish: Wish, *, own_node_id: str | None = None) -> Choice:
        """The choice for one task. ``own_node_id``: where its place is kept; to itself that place is free."""
        nodes = [
            replace(
                node, closed=self.standing.no_room(wish.project, node.node_id),
                expected=max(0, node.expected - 1) if node.node_id == own_node_id else node.expected,
            )
            for node in self.nodes
        ]  # fmt: skip
        refused = {offer: self.standing.no_purchase(wish.project, offer.price_per_hour) for offer in self.market.offers}
        held_back = {offer: why for offer, why in refused.items() if why is not None}
        choice = select(
            wish, nodes, offers=[offer for offer in self.market.offers if offer not in held_back],
            closed={**self.market.closed, **{offer.provider: why for offer, why in held_back.items()}},
            catalogue=self.catalogue, limits=self.limits,
        )  # fmt: skip
        return self._within_limits(choice, wish, [why for offer, why in held_back.items() if wish.fits(offer) is None])

    def _within_limits(self, choice: Choice, wish: Wish, held_back: Sequence[str]) -> Choice:
        """The choice, or to wait for a limit that was set. ``held_back``: why what fits is not bought."""
        if choice.action == "impossible":
            return choice
        why = self.standing.no_place(wish.project)
        if why is not None:
            return Choice("wait", None, why, choice.rejected)
        if choice.action == "wait" and choice.node_id is None and held_back:
            return replace(choice, reason=f"no node has room, and no further one is made: {held_back[0]}")
        return choice


def situation(
    tx: Connection, tools: StepTools, owner_id: str, now: float, *, but: str = "", limits: Standing | None = None
) -> Situation:
    """How things are now, as this transaction sees them. ``but``: a task whose own place counts against no limit;
    ``limits``: what was counted against them in this transaction already."""
    settings = tools.settings
    return Situation(
        nodes=tuple(_candidate(tools, node, now) for node in candidates(tx, owner_id)),
        market=market(
            tools.catalogue,
            accounts(tx),
            server_counts(tx),
            owner_id,
            now,
            waiting=lambda provider: claims(tx, provider, now, ageing_s=settings.priority_ageing_s),
        ),
        catalogue=tuple(offer for spec in tools.catalogue.providers for offer in spec.offers),
        limits=Limits(
            settings.heartbeat_stale_s, settings.node_load_max, settings.node_memory_max, settings.node_disk_max
        ),
        standing=standing(tx, owner_id, now, but=but) if limits is None else limits,
    )


def wish_of(task: Row[Any]) -> Wish:
    """What a task asks for."""
    wanted: Mapping[str, Any] = task.resources or {}
    return Wish(
        node_id=task.requested_node_id, allow_fallback=task.allow_node_fallback, provider=wanted.get("provider"),
        location=wanted.get("location"), location_policy=wanted.get("location_policy") or REQUIRE,
        vcpus=wanted.get("vcpus") or 0.0, memory_mb=wanted.get("memory_mb") or 0, project=task.project,
    )  # fmt: skip


def assign(wishes: Sequence[Wish], found: Situation) -> list[Choice]:
    """What each of those who wait gets, in their order; a choice "wait" gets nothing.

    At most one is told to buy: what it buys has room for others, who are asked again when it is ordered. A node that has a
    slot but not enough cores or memory for somebody is kept from those after them, who would otherwise fill it for ever.
    """
    choices: list[Choice] = []
    nodes, selling, limits = found.nodes, found.market, found.standing
    for wish in wishes:
        choice = replace(found, nodes=nodes, market=selling, standing=limits).choose(wish)
        if choice.action in _PLACES and choice.node_id is not None:
            limits = limits.taken(wish.project, choice.node_id)
            nodes = tuple(
                replace(
                    node, expected=node.expected + 1, reserved_vcpus=node.reserved_vcpus + wish.vcpus,
                    reserved_memory_mb=node.reserved_memory_mb + wish.memory_mb,
                )
                if node.node_id == choice.node_id else node
                for node in nodes
            )  # fmt: skip
        elif choice.action == "provision":
            selling = Market((), selling.closed)
            limits = limits.taken(wish.project, "")  # its place, on a node that has no name yet
        elif choice.action == "wait" and limits.no_place(wish.project) is None:
            nodes = tuple(replace(node, slots=0) if _lacks_only_size(node, wish) else node for node in nodes)
        choices.append(choice)
    return choices


def allocate_effect(tools: StepTools, owner_id: str, now: float) -> Effect:
    """Give what is free to those of the owner who wait. The last effect of a change that frees something, or waits."""

    def effect(tx: Connection) -> list[RunId]:
        lock_owner(tx, owner_id)
        limits = standing(tx, owner_id, now)
        waiting = _first_in_line(tx, owner_id, limits, ageing_s=tools.settings.priority_ageing_s)
        if not waiting:
            return []
        choices = assign([wish_of(task) for task in waiting], situation(tx, tools, owner_id, now, limits=limits))
        return [
            give_place(tx, task, choice.node_id if choice.action in _PLACES else None, choice.as_dict(), now)
            for task, choice in zip(waiting, choices, strict=True)
            if choice.action != "wait"  # what became impossible looks, and says so
        ]

    return effect


def _first_in_line(tx: Connection, owner_id: str, limits: Standing, *, ageing_s: float) -> Sequence[Row[Any]]:
    """Those of the owner who wait, best rank first. A project with limits has a page of its own: however many of its tasks
    wait for their limit, those of other projects are looked at."""
    if limits.no_place("") is not None:
        return []
    found = list(first_waiting(tx, owner_id, _PAGE, ageing_s=ageing_s, but=limits.projects))
    for project in limits.projects:
        if limits.no_place(project) is None:
            found += first_waiting(tx, owner_id, _PAGE, ageing_s=ageing_s, only=project)
    return sorted(found, key=lambda task: (task.rank, task.run_id))


def _lacks_only_size(node: Candidate, wish: Wish) -> bool:
    """Whether the node would do if less of it were reserved."""
    if node.taken >= node.slots or not (wish.vcpus or wish.memory_mb):
        return False
    whole = replace(node, reserved_vcpus=0.0, reserved_memory_mb=0)
    limits = Limits(float("inf"), float("inf"))
    asked = replace(wish, node_id=None)
    return select(asked, [whole], offers=(), limits=limits).action != "wait"


def _candidate(tools: StepTools, node: Row[Any], now: float) -> Candidate:
    beat = node.heartbeat or {}
    load, cores = beat.get("load1"), beat.get("cores")
    return Candidate(
        node_id=node.id, status=node.status, slots=node.slots, live_workspaces=node.live_workspaces,
        heartbeat_age_s=None if node.last_heartbeat_at is None else now - node.last_heartbeat_at,
        load=None if load is None or not cores else load / cores,
        memory_percent=beat.get("memory_percent"), disk_percent=beat.get("disk_percent"),
        expected=node.expected, provider=node.provider, location=node.location, vcpus=node.vcpus,
        memory_mb=node.memory_mb, reserved_vcpus=float(node.reserved_vcpus),
        reserved_memory_mb=int(node.reserved_memory_mb),
        agent_fits=speaks_this_protocol(node), retires=tools.retires(node, now),
        unreachable=node.unreachable_since is not None,
    )  # fmt: skip
