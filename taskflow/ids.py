"""Ids: sortable by time, distinct types, a prefix that says what they name.

Two id spaces that are both ``str`` get mixed up sooner or later (L-101 to L-103); the type checker keeps these apart.
"""

from __future__ import annotations

from typing import NewType

from ulid import ULID

OwnerId = NewType("OwnerId", str)
TaskId = NewType("TaskId", str)
RunId = NewType("RunId", str)
NodeId = NewType("NodeId", str)
WorkspaceId = NewType("WorkspaceId", str)
SessionId = NewType("SessionId", str)


def _new(prefix: str) -> str:
    return f"{prefix}-{str(ULID()).lower()}"


def new_owner_id() -> OwnerId:
    """A new owner id."""
    return OwnerId(_new("owner"))


def new_task_id() -> TaskId:
    """A new task id."""
    return TaskId(_new("task"))


def new_run_id() -> RunId:
    """A new run id."""
    return RunId(_new("run"))


def new_node_id() -> NodeId:
    """A new node id."""
    return NodeId(_new("node"))


def new_token_id() -> str:
    """A new API token id (not the token itself)."""
    return _new("token")


def new_browser_id() -> str:
    """A new id of a browser that is signed in (not what its cookie holds)."""
    return _new("browser")


def workspace_id_of(run_id: RunId) -> WorkspaceId:
    """The workspace of a run: one per run, so its id follows from it and creating it twice names the same one."""
    return WorkspaceId("ws-" + run_id.removeprefix("run-"))


def run_id_of_workspace(workspace_id: str) -> RunId:
    """The run whose workspace has this id: the same rule backwards."""
    return RunId("run-" + workspace_id.removeprefix("ws-"))


def session_id_of(run_id: RunId) -> SessionId:
    """The agent session of a run, by the same rule."""
    return SessionId("session-" + run_id.removeprefix("run-"))
