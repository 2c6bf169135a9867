"""What became of runs, and every attempt that failed."""

from __future__ import annotations

from typing import Any

from web.api import queries, reports
from web.api.routes import Routes
from web.auth import API, caller
from web.door import service

routes = Routes("history", "Runs with their steps, and attempts that failed")

_TASK = {400: "not a cursor of ours", 404: "no such task, or not yours"}


@routes.add(
    "GET",
    "/api/tasks/<task_id>/runs",
    guard=API,
    query=queries.TaskRunListQuerySchema,
    answers={200: reports.TaskRunPageSchema},
    refusals=_TASK,
)
def list_task_runs(query: dict[str, Any], task_id: str) -> dict[str, Any]:
    """List the runs of a task, the last one first, each with the steps it went through."""
    page, cursor = service().history.runs(caller(), task_id, limit=query["limit"], cursor=query["cursor"])
    return {"runs": page, "next_cursor": cursor}


@routes.add(
    "GET",
    "/api/tasks/<task_id>/errors",
    guard=API,
    query=queries.ErrorListQuerySchema,
    answers={200: reports.ErrorPageSchema},
    refusals=_TASK,
)
def list_task_errors(query: dict[str, Any], task_id: str) -> dict[str, Any]:
    """List the attempts of a task's steps that failed, newest first."""
    return _errors(query, task_id)


@routes.add(
    "GET",
    "/api/errors",
    guard=API,
    query=queries.ErrorListQuerySchema,
    answers={200: reports.ErrorPageSchema},
    refusals={400: "not a cursor of ours"},
)
def list_errors(query: dict[str, Any]) -> dict[str, Any]:
    """List every attempt of a step that failed, of tasks, of nodes and of your own pipelines, newest first."""
    return _errors(query, None)


def _errors(query: dict[str, Any], task_id: str | None) -> dict[str, Any]:
    page, cursor = service().history.errors(caller(), task_id=task_id, **query)
    return {"errors": page, "next_cursor": cursor}
