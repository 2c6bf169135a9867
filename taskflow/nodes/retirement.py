"""Which nodes end their work and get no more: their agents are of another release, or they have lived long enough."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from taskflow import __version__
from taskflow.protocol import PROTOCOL_VERSION


def speaks_this_protocol(node: Row[Any]) -> bool:
    """Whether the node's agent speaks this release's protocol. One that has not reported yet is not held against it."""
    beat = node.heartbeat or {}
    return not beat or beat.get("protocol_version") == PROTOCOL_VERSION


def left_behind(node: Row[Any]) -> str | None:
    """Why nothing can run on it any more: its agent speaks an older protocol. A newer one is known to the workers of the
    release that it came with, with which these run side by side."""
    spoken = (node.heartbeat or {}).get("protocol_version")
    if node.agent_version is None or not isinstance(spoken, int) or spoken >= PROTOCOL_VERSION:
        return None
    return f"its agent speaks protocol {spoken}, this release speaks {PROTOCOL_VERSION}"


def outdated(node: Row[Any], *, by_version: bool) -> str | None:
    """Why a node has to make room for one with this release's agent; None: it need not, or nobody knows yet.

    ``by_version``: another release is enough, also when it speaks the same protocol.
    """
    if node.agent_version is None:
        return None
    if not speaks_this_protocol(node):
        spoken = (node.heartbeat or {}).get("protocol_version")
        return f"its agent speaks protocol {spoken}, this release speaks {PROTOCOL_VERSION}"
    if by_version and node.agent_version != __version__:
        return f"its agent is of release {node.agent_version}, this is {__version__}"
    return None


def too_old(node: Row[Any], now: float, *, life_s: float) -> str | None:
    """Why a node has to make room for a fresh one: it is older than ``life_s`` (0: no limit). Its work ends first."""
    age_s = now - (node.bought_at or node.created_at)
    return f"it is {age_s:.0f} s old, {life_s:.0f} s is the most" if 0 < life_s < age_s else None
