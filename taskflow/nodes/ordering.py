"""A node that is to be ordered, for a task or by hand: its ids, its tokens, and what is ordered for it."""

from __future__ import annotations

import hashlib

from taskflow.db.nodes import NewNode
from taskflow.ids import NodeId, new_node_id, new_run_id
from taskflow.nodes.catalogue import Offer, ProviderSpec
from taskflow.nodes.context import StepTools
from taskflow.nodes.machine import NODE_DESTROYED, new_node_run
from taskflow.nodes.selector import Wish
from taskflow.vault import hash_token

__all__ = ["NODE_DESTROYED", "keyed_part", "new_node"]

#: Characters of an id that are its time; the others are random, or made from a key.
_TIME_PART = len("node-") + 10
_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"


def keyed_part(owner_id: str, key: str) -> str:
    """The end of the id of the node that an owner's idempotency key ordered: one key names one node."""
    digest = hashlib.sha256(f"{owner_id}\0{key}".encode()).digest()
    return "".join(_LETTERS[byte % 32] for byte in digest[:16])


def new_node(
    tools: StepTools,
    spec: ProviderSpec,
    offer: Offer,
    owner_id: str,
    wish: Wish,
    now: float,
    *,
    ordered_by: str | None = None,
    key: str | None = None,
) -> NewNode:
    """A node of this offer, not yet written. ``wish``: what another offer in its place has to meet.

    ``ordered_by``: somebody orders it by hand, and it is kept; ``key``: their idempotency key.
    """
    node_id = new_node_id()
    if key is not None:
        node_id = NodeId(node_id[:_TIME_PART] + keyed_part(owner_id, key))
    vault, kept = tools.vault, ordered_by is not None
    # A local node and its tokens outlive a machine that sleeps for days; nothing of them leaves it.
    expires_at = now + tools.settings.callback_token_s if spec.remote else None
    bootstrap = hash_token(vault.derive_token("bootstrap", node_id)) if spec.needs_user_data else None
    return NewNode(
        id=node_id, run=new_node_run(new_run_id(), node_id, owner_id, now, kept=kept), label=tools.label_of(node_id),
        provider=offer.provider, slots=offer.slots, callback_token_hash=hash_token(vault.derive_token("node", node_id)),
        callback_token_expires_at=expires_at,
        size=offer.size, location=offer.location, vcpus=offer.vcpus, memory_mb=offer.memory_mb,
        price_per_hour=offer.price_per_hour, bootstrap_token_hash=bootstrap, wish=wish.as_dict(), kept=kept,
        ordered_by=ordered_by,
    )  # fmt: skip
