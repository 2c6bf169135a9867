"""Which node a task gets: a pure function over what is known, and the reasons for it.

Order: the node the user named (a hard requirement unless they allow another) - a warm one - a running one with room - one
that is coming anyway - a new one - wait. Every rejected candidate is listed with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskflow.db.status import NODE_COMING, NODE_USABLE


@dataclass(frozen=True)
class Candidate:
    """A node as the selector sees it. ``load`` is load average per core."""

    node_id: str
    status: str
    slots: int
    live_workspaces: int
    heartbeat_age_s: float | None
    load: float | None = None


@dataclass(frozen=True)
class Wish:
    """What the task asks for."""

    node_id: str | None = None
    allow_fallback: bool = False


@dataclass(frozen=True)
class Choice:
    """``action``: use (a node now), await_node (one that is coming), provision, wait, or impossible."""

    action: str
    node_id: str | None
    reason: str
    rejected: tuple[dict[str, str], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As it is stored with the task and shown."""
        return {
            "action": self.action, "node_id": self.node_id, "reason": self.reason, "rejected": list(self.rejected),
        }  # fmt: skip


def select(wish: Wish, nodes: Sequence[Candidate], *, may_provision: bool, heartbeat_stale_s: float) -> Choice:
    """Choose. ``nodes``: every node of the owner that is not destroyed; ``may_provision``: there is room for one more."""
    if wish.node_id is not None:
        named = _named(wish.node_id, nodes, heartbeat_stale_s)
        if named is not None and (named.action != "impossible" or not wish.allow_fallback):
            return named
    rejected: list[dict[str, str]] = []
    fit: list[Candidate] = []
    for node in nodes:
        why = _unfit(node, heartbeat_stale_s)
        if why is None:
            fit.append(node)
        else:
            rejected.append({"node_id": node.node_id, "reason": why})
    refused = tuple(rejected)
    warm = [node for node in fit if node.status == "warm"]
    if warm:
        return Choice("use", warm[0].node_id, "a warm node", refused)
    if fit:
        # Fill the fullest first: an emptier one gets the chance to become warm and end.
        best = max(fit, key=lambda node: (node.live_workspaces, -(node.load or 0.0)))
        return Choice("use", best.node_id, "a running node with room", refused)
    coming = [node for node in nodes if node.status in NODE_COMING]
    if coming:
        return Choice("await_node", coming[0].node_id, "a node is coming already", refused)
    if may_provision:
        return Choice("provision", None, "no node with room", refused)
    return Choice("wait", None, "every node is full and no further one is allowed", refused)


def _named(node_id: str, nodes: Sequence[Candidate], heartbeat_stale_s: float) -> Choice | None:
    node = next((node for node in nodes if node.node_id == node_id), None)
    if node is None:
        return Choice("impossible", node_id, f"there is no node {node_id}")
    if node.status in NODE_COMING:
        return Choice("await_node", node_id, "the node that was asked for is coming")
    why = _unfit(node, heartbeat_stale_s)
    if why is None:
        return Choice("use", node_id, "the node that was asked for")
    if node.status in NODE_USABLE:
        return Choice("wait", node_id, f"the node that was asked for: {why}")
    return Choice("impossible", node_id, f"the node that was asked for: {why}")


def _unfit(node: Candidate, heartbeat_stale_s: float) -> str | None:
    if node.status not in NODE_USABLE:
        return f"it is {node.status}"
    if node.live_workspaces >= node.slots:
        return f"{node.live_workspaces} of {node.slots} slots are taken"
    if node.heartbeat_age_s is None or node.heartbeat_age_s > heartbeat_stale_s:
        return "its agent has not reported lately"
    return None
