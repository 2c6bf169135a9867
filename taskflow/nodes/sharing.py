"""Whose turn it is where all owners share a limit: a pure function over who has nodes and who waits.

Nodes are never shared between owners, so a full account is shared by handing over: a node of the owner who has most takes
no new work, ends its own, and goes; its place is for who waits. Nothing is killed for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Held:
    """A node that counts against the limit. ``leaving``: it takes no new work any more; ``kept``: somebody ordered it to
    stay, so it is never handed over."""

    node_id: str
    run_id: str
    owner_id: str
    live_workspaces: int
    leaving: bool
    kept: bool = False


def to_hand_over(nodes: Sequence[Held], best_rank: Mapping[str, float]) -> Held | None:
    """The node that is to go for somebody else, None when everything is fair. At most one leaves at a time.

    ``best_rank``: of each owner who waits, the rank of their first in line (lower is sooner). A node changes hands when its
    owner has two more than the one who waits, or one more and a worse claim: then the two would only change places.
    """
    if not best_rank or any(node.leaving for node in nodes):
        return None
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node.owner_id] = counts.get(node.owner_id, 0) + 1
    first = min(best_rank, key=lambda owner: (counts.get(owner, 0), best_rank[owner], owner))
    mine = counts.get(first, 0)
    claim = best_rank[first]
    movable = {node.owner_id for node in nodes if not node.kept}
    others = [
        owner for owner, count in counts.items()
        if (count > mine + 1 or (count == mine + 1 and claim < best_rank.get(owner, _LAST))) and owner in movable
    ]  # fmt: skip
    if not others:
        return None
    richest = max(others, key=lambda owner: (counts[owner], owner))
    theirs = [node for node in nodes if node.owner_id == richest and not node.kept]
    return min(theirs, key=lambda node: (node.live_workspaces, node.node_id))


#: The rank of who waits for nothing.
_LAST = float("inf")
