"""Which agents are of another release than this one: they end their work and get no more."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from taskflow import __version__
from taskflow.protocol import PROTOCOL_VERSION


def speaks_this_protocol(node: Row[Any]) -> bool:
    """Whether the node's agent speaks this release's protocol. One that has not reported yet is not held against it."""
    beat = node.heartbeat or {}
    return not beat or beat.get("protocol_version") == PROTOCOL_VERSION


def outdated(node: Row[Any], *, remote: bool, by_version: bool) -> str | None:
    """Why a node has to make room for one with this release's agent; None: it need not, or nobody knows yet.

    Agents on this machine are started again with the stack. ``by_version``: another release is enough, also when it
    speaks the same protocol.
    """
    if not remote or node.agent_version is None:
        return None
    if not speaks_this_protocol(node):
        spoken = (node.heartbeat or {}).get("protocol_version")
        return f"its agent speaks protocol {spoken}, this release speaks {PROTOCOL_VERSION}"
    if by_version and node.agent_version != __version__:
        return f"its agent is of release {node.agent_version}, this is {__version__}"
    return None
