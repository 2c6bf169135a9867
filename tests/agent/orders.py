"""A node's order as its agent reads it."""

from __future__ import annotations

import dataclasses
from typing import Any

from taskflow import protocol
from taskflow.agent.places import Order
from tests.agent.rig import AGENT_TOKEN, NODE_ID, NODE_TOKEN


def node_order(**changes: Any) -> Order:
    """A plain one, with changes."""
    plain = {
        "node_id": NODE_ID,
        "callback_token": NODE_TOKEN,
        "agent_token": AGENT_TOKEN,
        "slots": 2,
        "heartbeat_interval_s": 0.5,
    }
    return dataclasses.replace(Order(**protocol.load(protocol.NodeOrderSchema, plain)), **changes)
