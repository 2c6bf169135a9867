"""What is known of a task whose node is not heard of: since when, what was found, and when it will be given up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row

from taskflow.clock import isoformat
from taskflow.db.events import last_event
from taskflow.db.nodes import UNREACHABLE, get_node
from taskflow.nodes.context import StepTools
from taskflow.nodes.liveness import is_lost, verdict_at
from taskflow.nodes.providers.base import UNKNOWN

#: Statuses of a task that has something on its node.
_ON_NODE = ("delegated", "in_progress")


def unheard(tx: Connection, tools: StepTools, task: Row[Any], node: Row[Any] | None = None) -> dict[str, Any] | None:
    """What is known while the node of a task under way is not heard of, else None. ``node``: its row, if it was read.

    ``since``; when its agent and its provider were asked (``asked_at``) and what was found (``agent_answers``,
    ``server_state``); ``verdict_at``: when it is given up if it stays silent (None: not while its agent answers).
    """
    if task.status not in _ON_NODE or task.node_id is None:
        return None
    node = get_node(tx, task.node_id) if node is None else node
    if node is None or node.unreachable_since is None or is_lost(node):
        return None
    asked = last_event(tx, "node", node.id, UNREACHABLE)
    found: Mapping[str, Any] = {} if asked is None else asked.data
    due_at = verdict_at(
        node.last_heartbeat_at, stale_s=tools.settings.heartbeat_stale_s, lost_s=tools.lost_after_s(node),
        agent_answers=found.get("agent_answers"),
    )  # fmt: skip
    return {
        "since": isoformat(node.unreachable_since),
        "asked_at": None if asked is None else isoformat(asked.at),
        "agent_answers": found.get("agent_answers"),
        "server_state": found.get("server_state"),
        "verdict_at": isoformat(due_at),
    }


def unheard_text(found: Mapping[str, Any] | None) -> str:
    """The same as a part of a sentence; '' when there is nothing to say."""
    if found is None:
        return ""
    agent = {True: "its agent answered", False: "its agent did not answer"}.get(
        found["agent_answers"], "its agent could not be asked"
    )
    state = found["server_state"]
    server = {None: "has no such server", UNKNOWN: "could not say how its server is"}.get(
        state, f"said that it is {state}"
    )
    until = f"; it is given up at {found['verdict_at']} if it stays silent" if found["verdict_at"] else ""
    return f"; unknown since {found['since']}: its node has not reported ({agent}, its provider {server}){until}"
