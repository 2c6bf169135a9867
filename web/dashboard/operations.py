"""What whoever runs the installation looks at: errors, sweeps, settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from flask import Response, request

from taskflow.service import RunFilter, TaskFilter
from web.auth import caller
from web.dashboard.frame import Pages, admins_only, operators_only, show
from web.door import service

_ROWS = 50
#: What fails again and again, as a node that can't be given back, must not hide what else failed.
_ATTEMPTS_READ = 200

pages = Pages("operations")


@pages.add("/errors")
def see_errors() -> Response:
    """What failed: tasks, runs of pipelines of one's own, and attempts of steps."""
    who, served = caller(), service()
    after = served.events.place("now")
    failed, cursor = served.tasks.list(who, wanted=TaskFilter(statuses=("failed",)), limit=_ROWS)
    runs, cursor_of_runs = served.runs.list(who, RunFilter(statuses=("failed",)), limit=_ROWS)
    return show(
        "errors.html", after=after, failed=failed, more=cursor is not None, runs=runs,
        more_runs=cursor_of_runs is not None,
        attempts=_alike(served.history.errors(who, limit=_ATTEMPTS_READ)[0]),
    )  # fmt: skip


def _alike(attempts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of the attempts of one run that failed at one step with one code the newest; ``more``: how many others there are."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for one in attempts:
        newest = found.setdefault((one["run_id"], one["step"], one["code"]), {**one, "more": -1})
        newest["more"] += 1
    return list(found.values())[:_ROWS]


@pages.add("/sweeps")
def see_sweeps() -> Response:
    """The scheduled jobs, as ``GET /api/sweeps`` says them."""
    operators_only()
    return show("sweeps.html", sweeps=service().health.sweeps_in_numbers())


@pages.add("/settings")
def see_settings() -> Response:
    """The settings in force, and where each came from."""
    admins_only()
    port = service().lookups.flower_port
    host = urlsplit(request.host_url).hostname or "127.0.0.1"
    flower = f"http://{f'[{host}]' if ':' in host else host}:{port}" if port else None
    return show("settings.html", settings=service().lookups.settings(), flower=flower)
