"""Tasks: the list, one of them, and making one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from flask import Response, request

from taskflow.errors import NotFound, UsageError
from taskflow.service import TaskFilter
from web.auth import caller
from web.dashboard.drawings import diagrams
from web.dashboard.frame import Pages, operators_only, show, wrong_filters
from web.dashboard.histories import EVENTS_READ, History
from web.dashboard.timeline import WIDTH, timeline
from web.door import service

PAGE_ROWS = 50
_ENDED = ("completed", "failed", "cancelled")
#: As the command line and forms write a label, or as the API does; whichever comes first parts it.
_LABEL = re.compile(r"([^=:]+)[=:](.*)", re.DOTALL)

pages = Pages("tasks")

#: What may be chosen as a status: (value in the URL, what it is called).
STATUS_CHOICES = (
    ("", "all"), ("queued,delegated,in_progress", "not ended"), ("delegated,in_progress", "running"),
    ("ready,queued", "waiting"), ("failed", "failed"), ("completed", "completed"), ("cancelled", "cancelled"),
    ("draft", "draft"),
)  # fmt: skip


@dataclass(frozen=True)
class Filter:
    """One field of the form above the list. ``name`` in the URL is what the API calls it too."""

    name: str
    label: str
    choices: Sequence[tuple[str, str]] = ()
    hint: str = ""


FILTERS = (
    Filter("status", "Status", STATUS_CHOICES),
    Filter("text", "Text", hint="title, id or repository"),
    Filter("project", "Project", hint="any"),
    Filter("step", "Step", hint="any"),
    Filter("node", "Node", hint="id"),
    Filter("label", "Label", hint="key=value"),
)


def _wanted(chosen: Mapping[str, str]) -> TaskFilter:
    """What the form says. Raises ``UsageError`` for a label that is none."""
    label = _LABEL.fullmatch(chosen.get("label", ""))
    if label is None and "label" in chosen:
        raise UsageError("a label is written as key=value", fields={"label": "must be key=value"})
    return TaskFilter(
        statuses=tuple(word for word in chosen.get("status", "").split(",") if word), project=chosen.get("project"),
        step=chosen.get("step"), node_id=chosen.get("node"), labels=() if label is None else ((label[1], label[2]),),
        text=chosen.get("text"),
    )  # fmt: skip


@pages.add("/tasks")
def see_tasks() -> Response:
    """The list, newest first, as the URL filters it."""
    chosen = {one.name: value for one in FILTERS if (value := request.args.get(one.name, "").strip())}
    after = service().events.place("now")
    rows, cursor, wrong = _page(chosen)
    following = None if cursor is None else "/tasks?" + urlencode({**chosen, "cursor": cursor})
    return show(
        "tasks.html", 400 if wrong else 200, after=after, rows=rows, filters=FILTERS, chosen=chosen, wrong=wrong,
        following=following,
        first="/tasks?" + urlencode(chosen) if "cursor" in request.args else None, ended=_ENDED,
    )  # fmt: skip


def _page(chosen: Mapping[str, str]) -> tuple[Sequence[dict[str, Any]], str | None, dict[str, str]]:
    """The rows, the cursor of those that follow, and of each filter that is none what is wrong with it."""
    cursor = request.args.get("cursor") or None
    try:
        return (*service().tasks.list(caller(), wanted=_wanted(chosen), limit=PAGE_ROWS, cursor=cursor), {})
    except UsageError as error:
        return (), None, wrong_filters(error, chosen)


@pages.add("/tasks/new")
def make_task() -> Response:
    """The form of a new task."""
    operators_only()
    names = [one["name"] for one in service().providers.for_sale(caller())]
    return show("new_task.html", providers=[("", "any"), *((name, name) for name in names)])


@pages.add("/tasks/<task_id>")
def see_task(task_id: str) -> Response:
    """A task with everything that is known of it; ``?run=`` chooses one of its runs."""
    who, served = caller(), service()
    task = served.tasks.get(who, task_id)
    history, why = History(served.events.newest_of_task(who, task_id, EVENTS_READ)), served.explain.why(who, task_id)
    named = request.args.get("run") or None
    runs = served.lookups.runs(who, task_id, named)
    run = _chosen_run(runs, named)
    drawn = None if run is None else timeline(history.events, run, served.now(), since=why.get("since"))
    states = {} if drawn is None else drawn.states
    return show(
        "task.html", task=task, runs=runs, run=run, drawn=drawn, width=WIDTH,
        diagrams=diagrams(served.lookups.steps(), states), why=why, history=history, ended=_ENDED,
        allowed=_allowed(task),
    )  # fmt: skip


def _chosen_run(runs: Sequence[dict[str, Any]], named: str | None) -> dict[str, Any] | None:
    """The run that the URL names, else the last one. Raises ``NotFound``."""
    if named is None:
        return runs[0] if runs else None
    found = next((run for run in runs if run["id"] == named), None)
    if found is None:
        raise NotFound("this task has no such run", fields={"run": "unknown"})
    return found


def _allowed(task: Mapping[str, Any]) -> frozenset[str]:
    """What may be done with the task now."""
    if task["status"] in _ENDED:
        return frozenset({"rerun"} if task["finished"] and task["status"] != "completed" else ())
    found = {"run"} if task["status"] == "draft" else set()
    return frozenset(found | (set() if task["cancel_requested"] else {"cancel"}))
