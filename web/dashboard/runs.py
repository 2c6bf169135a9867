"""Runs of pipelines of one's own: the list, one of them, and starting one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from flask import Response, request

from taskflow.errors import UsageError
from taskflow.service import RunFilter
from web.auth import caller
from web.dashboard.drawings import diagrams
from web.dashboard.frame import Pages, operators_only, show, wrong_filters
from web.dashboard.histories import EVENTS_READ, History
from web.dashboard.inputs import fields_of
from web.dashboard.timeline import WIDTH, timeline
from web.door import service

PAGE_ROWS = 50

pages = Pages("runs")

#: What may be chosen as a status: (value in the URL, what it is called).
STATUS_CHOICES = (
    ("", "all"), ("running,waiting", "not ended"), ("running", "running"), ("waiting", "waiting"), ("failed", "failed"),
    ("completed", "completed"), ("cancelled", "cancelled"),
)  # fmt: skip


@pages.add("/runs")
def see_runs() -> Response:
    """The list, newest first, as the URL filters it."""
    chosen = {
        name: value for name in ("status", "pipeline", "subject") if (value := request.args.get(name, "").strip())
    }
    after = service().events.place("now")
    rows, cursor, wrong = _page(chosen)
    return show(
        "runs.html", 400 if wrong else 200, after=after, wrong=wrong, rows=rows, chosen=chosen, choices=STATUS_CHOICES,
        following=None if cursor is None else "/runs?" + urlencode({**chosen, "cursor": cursor}),
        first="/runs?" + urlencode(chosen) if "cursor" in request.args else None,
    )  # fmt: skip


def _page(chosen: Mapping[str, str]) -> tuple[Sequence[dict[str, Any]], str | None, dict[str, str]]:
    """The rows, the cursor of those that follow, and of each filter that is none what is wrong with it."""
    cursor = request.args.get("cursor") or None
    try:
        return (*service().runs.list(caller(), _wanted(chosen), limit=PAGE_ROWS, cursor=cursor), {})
    except UsageError as error:
        return (), None, wrong_filters(error, chosen)


def _wanted(chosen: Mapping[str, str]) -> RunFilter:
    statuses = tuple(word for word in chosen.get("status", "").split(",") if word)
    return RunFilter(statuses=statuses, pipeline=chosen.get("pipeline"), subject=chosen.get("subject"))


@pages.add("/runs/new")
def make_run() -> Response:
    """The form of a new run: of the pipeline that ``?pipeline=`` names, or the first; ``?as=json``: without fields."""
    operators_only()
    known = service().pipelines.list()
    named = request.args.get("pipeline") or (known[0]["name"] if known else None)
    chosen = next((one for one in known if one["name"] == named), None)
    if chosen is None and named is not None:
        raise UsageError("no such pipeline is registered here", fields={"pipeline": "unknown"})
    fields = None if chosen is None else fields_of(chosen["input_schema"])
    return show(
        "new_run.html", pipeline=chosen, choices=[(one["name"], one["name"]) for one in known],
        fields=None if request.args.get("as") == "json" else fields, has_fields=bool(fields),
    )  # fmt: skip


@pages.add("/runs/<run_id>")
def see_run(run_id: str) -> Response:
    """A run with everything that is known of it."""
    who, served = caller(), service()
    found = served.runs.get(who, run_id)
    history, why = History(served.runs.newest_events(who, run_id, EVENTS_READ)), served.run_explain.why(who, run_id)
    # A finished one's view names no step; its bars all come from its events.
    drawn = timeline(history.events, found, served.now(), since=why.get("since"))
    steps = served.lookups.steps(found["pipeline"])
    return show(
        "run.html", run=found, drawn=drawn, width=WIDTH, diagrams=diagrams(steps, drawn.states) if steps else None,
        why=why, history=history, signal=_signal(found),
    )  # fmt: skip


def _signal(run: Mapping[str, Any]) -> dict[str, str] | None:
    """The signal that the run waits for: its ``name``, the ``address`` that takes it, and the ``key`` of this wait; None:
    it awaits none, or the answer is there already."""
    name = run["awaiting"]
    key = None if name is None else service().runs.wait_key(caller(), run["id"], name)
    if key is None:
        return None
    return {"name": name, "address": f"/api/runs/{run['id']}/signals/{quote(name, safe='')}", "key": key}
