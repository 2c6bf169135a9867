"""Which node a task gets: a pure function over what is known, and the reasons for it.

Order: the node the user named (no other one, unless they allow it and that one can't be used now) - a warm one - a running
one with room - one that is coming anyway - a new one - wait. Every rejected candidate is listed with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from taskflow.db.status import LOCAL_PROVIDER, NODE_COMING, NODE_USABLE
from taskflow.nodes.catalogue import Offer

_ASKED = "the node that was asked for: "
#: Of as many it is said why they will never do; of all of them the task's placement says it.
_SHOWN_MAX = 4
#: What a location is: the only place, or the first one to be looked at.
REQUIRE, PREFER = "require", "prefer"


@dataclass(frozen=True)
class Candidate:
    """A node as the selector sees it. ``load`` is load average per core, ``memory_percent`` and ``disk_percent`` what is in
    use; None: it does not say. ``expected`` tasks chose it and are on their way.

    ``vcpus`` and ``memory_mb`` None: nobody said how large it is. ``free_*`` is what no workspace reserved.
    """

    node_id: str
    status: str
    slots: int
    live_workspaces: int
    heartbeat_age_s: float | None
    load: float | None = None
    memory_percent: float | None = None
    disk_percent: float | None = None
    expected: int = 0
    provider: str = "local"
    location: str = ""
    vcpus: float | None = None
    memory_mb: int | None = None
    reserved_vcpus: float = 0.0
    reserved_memory_mb: int = 0
    agent_fits: bool = True
    unreachable: bool = False
    #: Why it gets no new work and goes when it is idle.
    retires: str | None = None
    #: Why a limit leaves nothing of it for the task that a node is chosen for.
    closed: str | None = None

    @property
    def taken(self) -> int:
        """Slots that somebody has or is about to take."""
        return self.live_workspaces + self.expected


@dataclass(frozen=True)
class Wish:
    """What is asked for. ``vcpus`` and ``memory_mb`` are reserved on a task's node while its workspace lives.

    ``location_policy``: whether it has to be at ``location``, or goes there before others of its kind. ``size``: only who
    orders a node by hand names one. ``project``: whose limits count, beside the owner's.
    """

    node_id: str | None = None
    allow_fallback: bool = False
    provider: str | None = None
    location: str | None = None
    location_policy: str = REQUIRE
    vcpus: float = 0.0
    memory_mb: int = 0
    size: str | None = None
    project: str = ""

    @classmethod
    def stored(cls, found: Mapping[str, Any]) -> Wish:
        """A wish as a row has it. What a later release asks for besides is not known here, and not asked for."""
        return cls(**{one.name: found[one.name] for one in fields(cls) if one.name in found})

    def fits(self, offer: Offer) -> str | None:
        """Why this offer is none for it, None when it is one."""
        if self.provider is not None and offer.provider != self.provider:
            return f"it is of provider {offer.provider}, {self.provider} was asked for"
        wrong = self.wrong_place(offer.location)
        if wrong is not None:
            return wrong
        if self.size is not None and offer.size != self.size:
            return f"it is of size {offer.size}, {self.size} was asked for"
        return _too_small(self, offer.vcpus, offer.memory_mb, "has")

    def is_second_choice(self, location: str) -> bool:
        """Whether another place is preferred to this one. As a key it puts what is at the preferred one first."""
        return self.location_policy == PREFER and self.location not in (None, location)

    def wrong_place(self, location: str) -> str | None:
        """Why this place is none for it, None when it is one."""
        if self.location_policy == PREFER or self.location in (None, location):
            return None
        return f"it is at {location or 'no place'}, {self.location} was asked for"

    def as_dict(self) -> dict[str, Any]:
        """What has to hold for another offer in this one's place. What is not said is as an older release expects it."""
        found: dict[str, Any] = {
            "provider": self.provider, "location": self.location, "vcpus": self.vcpus, "memory_mb": self.memory_mb,
        }  # fmt: skip
        if self.location_policy != REQUIRE:
            found["location_policy"] = self.location_policy
        return found if self.size is None else {**found, "size": self.size}


@dataclass(frozen=True)
class Limits:
    """Beyond which a node gets no further work: the age of its heartbeat, its load for each core, percent in use of its
    memory and of the disk that its workspaces are on."""

    heartbeat_stale_s: float
    load_max: float
    memory_max: float = float("inf")
    disk_max: float = float("inf")


@dataclass(frozen=True)
class Choice:
    """``action``: use (a node now), await_node (one that is coming), provision (``offer``), wait, or impossible."""

    action: str
    node_id: str | None
    reason: str
    rejected: tuple[dict[str, str], ...] = ()
    offer: Offer | None = None
    #: The node that was named and can't be used now, where another one may be taken.
    instead_of: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As it is stored with the task and shown."""
        found: dict[str, Any] = {
            "action": self.action, "node_id": self.node_id, "reason": self.reason, "rejected": list(self.rejected),
        }  # fmt: skip
        if self.offer is not None:
            found["offer"] = {name: getattr(self.offer, name) for name in ("provider", "size", "location")}
        if self.instead_of is not None:
            found["instead_of"] = self.instead_of
        return found


def select(
    wish: Wish,
    nodes: Sequence[Candidate],
    *,
    offers: Sequence[Offer],
    closed: Mapping[str, str] | None = None,
    catalogue: Sequence[Offer] | None = None,
    limits: Limits,
) -> Choice:
    """Choose. ``nodes``: every node of the owner that is not destroyed; ``offers``: what may be bought now, best first;
    ``closed``: why nothing more is bought, by provider; ``catalogue``: all that could ever be bought, if that is known."""
    if wish.node_id is None:
        return _any(wish, nodes, offers, closed or {}, catalogue, limits)
    named = _named(wish, nodes, limits)
    if not wish.allow_fallback or named.action in ("use", "await_node"):
        return named
    other = _any(wish, nodes, offers, closed or {}, catalogue, limits)
    why_not = {"node_id": wish.node_id, "reason": named.reason.removeprefix(_ASKED)}
    return replace(
        other, instead_of=wish.node_id,
        reason=other.reason if other.action in ("wait", "impossible") else f"instead of {wish.node_id}: {other.reason}",
        rejected=(why_not, *(one for one in other.rejected if one.get("node_id") != wish.node_id)),
    )  # fmt: skip


def _any(
    wish: Wish,
    nodes: Sequence[Candidate],
    offers: Sequence[Offer],
    closed: Mapping[str, str],
    catalogue: Sequence[Offer] | None,
    limits: Limits,
) -> Choice:
    """The choice of whoever names no node."""
    rejected: list[dict[str, str]] = []
    fit: list[Candidate] = []
    for node in nodes:
        why = _unfit(node, wish, limits)
        if why is None:
            fit.append(node)
        else:
            rejected.append({"node_id": node.node_id, "reason": why})
    usable = [node for node in fit if node.status in NODE_USABLE]
    if usable:
        best = min(usable, key=lambda node: _order(node, wish))
        said = "a warm node" if best.status == "warm" else "a running node with room"
        return Choice("use", best.node_id, said + _place(wish, best.location), tuple(rejected))
    if fit:
        first = min(fit, key=lambda node: wish.is_second_choice(node.location))
        said = "a node is coming already" + _place(wish, first.location)
        return Choice("await_node", first.node_id, said, tuple(rejected))
    for offer in sorted(offers, key=lambda offer: wish.is_second_choice(offer.location)):
        why = wish.fits(offer)
        if why is None:
            said = "no node with room" + _place(wish, offer.location)
            return Choice("provision", None, said, tuple(rejected), offer)
        rejected.append({"provider": offer.provider, "offer": offer.key, "reason": why})
    never = catalogue is not None and all(wish.fits(offer) for offer in catalogue)
    if never and all(node.status not in (*NODE_USABLE, *NODE_COMING) or _never(node, wish) for node in nodes):
        return Choice("impossible", None, _said_of_none(wish, nodes, catalogue or ()), tuple(rejected))
    rejected += [{"provider": name, "reason": why} for name, why in closed.items()]
    return Choice("wait", None, "no node has room, and no further one is allowed", tuple(rejected))


def _said_of_none(wish: Wish, nodes: Sequence[Candidate], catalogue: Sequence[Offer]) -> str:
    """That nothing there is will ever do, with what decides it: of each offer and node, the first few of them."""
    why = [f"{offer.said}: {wish.fits(offer)}" for offer in catalogue]
    why += [f"{node.node_id}: {reason}" for node in nodes if (reason := _never(node, wish)) is not None]
    more = f"; and {len(why) - _SHOWN_MAX} more" if len(why) > _SHOWN_MAX else ""
    return f"no node and no offer is what was asked for: {'; '.join(why[:_SHOWN_MAX])}{more}"


def _place(wish: Wish, location: str) -> str:
    """What is said of a choice that is not where it was to be."""
    if not wish.is_second_choice(location):
        return ""
    return f"; it is at {location or 'no place'}, {wish.location} was preferred"


def _order(node: Candidate, wish: Wish) -> tuple[Any, ...]:
    # Warm first; where it is preferred; then the fullest, so that an emptier one gets the chance to become warm and end;
    # the least loaded, and the smallest that will do. What does not say its load comes last.
    return (
        node.status != "warm", wish.is_second_choice(node.location), -node.taken, node.load is None, node.load or 0.0,
        node.vcpus or 0.0, node.node_id,
    )  # fmt: skip


def _named(wish: Wish, nodes: Sequence[Candidate], limits: Limits) -> Choice:
    """The choice where no other node than the named one will do."""
    node = next((node for node in nodes if node.node_id == wish.node_id), None)
    if node is None:
        return Choice("impossible", wish.node_id, f"there is no node {wish.node_id}")
    never = _never(node, wish)
    if never is not None:
        return Choice("impossible", node.node_id, _ASKED + never)
    why, coming = _unfit(node, wish, limits), node.status in NODE_COMING
    if coming and (why is None or not wish.allow_fallback):
        return Choice("await_node", node.node_id, "the node that was asked for is coming")
    if why is None:
        return Choice("use", node.node_id, "the node that was asked for")
    return Choice("wait" if coming or node.status in NODE_USABLE else "impossible", node.node_id, _ASKED + why)


def _unfit(node: Candidate, wish: Wish, limits: Limits) -> str | None:
    """Why a node can't take the task now."""
    coming = node.status in NODE_COMING
    if node.status not in NODE_USABLE and not coming:
        return f"it is {node.status}"
    never = _never(node, wish)
    if never is not None:
        return never
    if node.closed is not None:
        return node.closed
    if node.taken >= node.slots:
        on_the_way = f", {node.expected} of them by tasks on their way" if node.expected else ""
        return f"{node.taken} of {node.slots} slots are taken{on_the_way}"
    free_vcpus = None if node.vcpus is None else node.vcpus - node.reserved_vcpus
    free_memory = None if node.memory_mb is None else node.memory_mb - node.reserved_memory_mb
    small = _too_small(wish, free_vcpus, free_memory, "has left")
    if small is not None:
        return small
    if coming:
        return None
    if node.unreachable or node.heartbeat_age_s is None or node.heartbeat_age_s > limits.heartbeat_stale_s:
        return "its agent has not reported lately"
    # The local node is spared: what else this machine does is no reason, there is no other one.
    return None if node.provider == LOCAL_PROVIDER else _overloaded(node, limits)


def _overloaded(node: Candidate, limits: Limits) -> str | None:
    """What a node has too much of, as its last heartbeat said."""
    if node.load is not None and node.load > limits.load_max:
        return f"its load is {node.load:.1f} for each core"
    for what, percent, most in (
        ("memory", node.memory_percent, limits.memory_max), ("disk", node.disk_percent, limits.disk_max),
    ):  # fmt: skip
        if percent is not None and percent > most:
            return f"{percent:.0f} % of its {what} is in use"
    return None


def _never(node: Candidate, wish: Wish) -> str | None:
    """Why a node could not take the task even if it were empty."""
    if wish.provider is not None and node.provider != wish.provider:
        return f"it is of provider {node.provider}, {wish.provider} was asked for"
    wrong = wish.wrong_place(node.location)
    if wrong is not None:
        return wrong
    if not node.agent_fits:
        return "its agent is of another release, and takes no new work"
    if node.retires is not None:
        return f"it takes no new work: {node.retires}"
    return _too_small(wish, node.vcpus, node.memory_mb, "has")


def _too_small(wish: Wish, vcpus: float | None, memory_mb: int | None, has: str) -> str | None:
    if wish.vcpus and (vcpus is None or vcpus < wish.vcpus):
        return f"it {has} {'an unknown number of' if vcpus is None else f'{vcpus:g}'} vcpus, {wish.vcpus:g} are needed"
    if wish.memory_mb and (memory_mb is None or memory_mb < wish.memory_mb):
        known = "an unknown amount of" if memory_mb is None else f"{memory_mb}"
        return f"it {has} {known} MB of memory, {wish.memory_mb} are needed"
    return None
