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
from taskflow.db.waiting import best_ranks, first_waiting, give_place
from taskflow.engine.outcomes import Effect
from taskflow.ids import RunId
from taskflow.nodes.catalogue import Offer
from taskflow.nodes.context import StepTools
from taskflow.nodes.purchase import Market, market
from taskflow.nodes.selector import Candidate, Choice, Limits, Wish, select
from taskflow.nodes.upgrade import speaks_this_protocol

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

    def choose(self, wish: Wish, *, own_node_id: str | None = None) -> Choice:
        """The choice for one task. ``own_node_id``: where its place is kept; to itself that place is free."""
        nodes = [
            replace(node, expected=max(0, node.expected - 1)) if node.node_id == own_node_id else node
            for node in self.nodes
        ]
        return select(
            wish, nodes, offers=self.market.offers, closed=self.market.closed, catalogue=self.catalogue,
            limits=self.limits,
        )  # fmt: skip


def situation(tx: Connection, tools: StepTools, owner_id: str, now: float) -> Situation:
    """How things are now, as this transaction sees them."""
    settings = tools.settings
    return Situation(
        nodes=tuple(_candidate(tools, node, now) for node in candidates(tx, owner_id)),
        market=market(
            tools.catalogue,
            accounts(tx),
            server_counts(tx),
            owner_id,
            now,
            waiting=lambda provider: best_ranks(tx, provider, ageing_s=settings.priority_ageing_s),
        ),
        catalogue=tuple(offer for spec in tools.catalogue.providers for offer in spec.offers),
        limits=Limits(settings.heartbeat_stale_s, settings.node_load_max),
    )


def wish_of(task: Row[Any]) -> Wish:
    """What a task asks for."""
    wanted: Mapping[str, Any] = task.resources or {}
    return Wish(
        node_id=task.requested_node_id, allow_fallback=task.allow_node_fallback, provider=wanted.get("provider"),
        location=wanted.get("location"), vcpus=wanted.get("vcpus") or 0.0, memory_mb=wanted.get("memory_mb") or 0,
    )  # fmt: skip


def assign(wishes: Sequence[Wish], found: Situation) -> list[Choice]:
    """What each of those who wait gets, in their order; a choice "wait" gets nothing.

    At most one is told to buy: what it buys has room for others, who are asked again when it is ordered. A node that has a
    slot but not enough cores or memory for somebody is kept from those after them, who would otherwise fill it for ever.
    """
    choices: list[Choice] = []
    nodes, selling = found.nodes, found.market
    for wish in wishes:
        choice = replace(found, nodes=nodes, market=selling).choose(wish)
        if choice.action in _PLACES:
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
        elif choice.action == "wait":
            nodes = tuple(replace(node, slots=0) if _lacks_only_size(node, wish) else node for node in nodes)
        choices.append(choice)
    return choices


def allocate_effect(tools: StepTools, owner_id: str, now: float) -> Effect:
    """Give what is free to those of the owner who wait. The last effect of a change that frees something, or waits."""

    def effect(tx: Connection) -> list[RunId]:
        lock_owner(tx, owner_id)
        waiting = first_waiting(tx, owner_id, _PAGE, ageing_s=tools.settings.priority_ageing_s)
        if not waiting:
            return []
        choices = assign([wish_of(task) for task in waiting], situation(tx, tools, owner_id, now))
        return [
            give_place(tx, task, choice.node_id if choice.action in _PLACES else None, choice.as_dict(), now)
            for task, choice in zip(waiting, choices, strict=True)
            if choice.action != "wait"  # what became impossible looks, and says so
        ]

    return effect


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
        expected=node.expected, provider=node.provider, location=node.location, vcpus=node.vcpus,
        memory_mb=node.memory_mb, reserved_vcpus=float(node.reserved_vcpus),
        reserved_memory_mb=int(node.reserved_memory_mb),
        agent_fits=speaks_this_protocol(node) and tools.outdated(node) is None,
        unreachable=node.unreachable_since is not None,
    )  # fmt: skip
