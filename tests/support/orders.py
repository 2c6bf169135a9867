"""Orders of node agents, as a local node's agent gets one."""

from __future__ import annotations

from typing import Any


def agent_order(node_id: str, *, slots: int = 2, **more: Any) -> dict[str, Any]:
    """As ``protocol.NodeOrderSchema``, with tokens that say what they are."""
    return {
        "node_id": node_id, "slots": slots, "callback_token": "callback-token", "agent_token": "agent-token",
        "heartbeat_interval_s": 10.0, **more,
    }  # fmt: skip
