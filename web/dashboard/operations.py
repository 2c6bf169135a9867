"""What whoever runs the installation looks at: errors, sweeps, settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from flask import Response, request

from taskflow.service import RunFilter, TaskFilter
from web.auth import caller
from web.dashboard.frame import Pages, admins_only, operators_only, show
from web.dashboard.subjects import SWEEPS, groups
from web.door import service

_ROWS = 50

pages = Pages("operations")


@pages.add("/errors")
def see_errors() -> Response:
    """What failed: tasks, runs of pipelines of one's own, what was promised, and attempts of steps; ``?attempts=``: older
    ones of these."""
    who, served = caller(), service()
    after = served.events.place("now")
    failed, cursor = served.tasks.list(who, wanted=TaskFilter(statuses=("failed",)), limit=_ROWS)
    runs, cursor_of_runs = served.runs.list(who, RunFilter(statuses=("failed",)), limit=_ROWS)
    attempts, older = served.history.alike(who, limit=_ROWS, cursor=request.args.get("attempts") or None)
    return show(
        "errors.html", after=after, failed=_by_end(failed, "completed_at"), more=cursor is not None,
        runs=_by_end(runs, "finished_at"),
        more_runs=cursor_of_runs is not None, promises=served.history.promises(who), attempts=attempts,
        first="/errors#attempts" if "attempts" in request.args else None,
        following=None if older is None else "/errors?" + urlencode({"attempts": older}) + "#attempts",
    )  # fmt: skip


def _by_end(rows: Sequence[dict[str, Any]], ended: str) -> list[dict[str, Any]]:
    """What ended last comes first, as far as it is listed. Times of ours sort as texts."""
    return sorted(rows, key=lambda row: row[ended] or "", reverse=True)


@pages.add("/sweeps")
def see_sweeps() -> Response:
    """The scheduled jobs, as ``GET /api/sweeps`` says them."""
    operators_only()
    return show("sweeps.html", sweeps=service().health.sweeps_in_numbers(), does=SWEEPS)


@pages.add("/settings")
def see_settings() -> Response:
    """The settings in force by subject, and where each came from; ``?text=`` and ``?which=set`` narrow them."""
    admins_only()
    chosen = {name: value for name in ("text", "which") if (value := request.args.get(name, "").strip())}
    found = groups(service().lookups.settings(), chosen.get("text", ""), set_only=chosen.get("which") == "set")
    return show("settings.html", groups=found, chosen=chosen)
