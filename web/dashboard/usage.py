"""What a month's nodes cost and its tasks used."""

from __future__ import annotations

from flask import Response, request

from web.auth import caller
from web.dashboard.frame import Pages, show
from web.door import service

pages = Pages("usage")

#: The limits, in the words of the page.
_LIMITS = (
    ("nodes_max", "nodes"), ("running_tasks_max", "running tasks"), ("node_workspaces_max", "workspaces on a node"),
    ("vcpu_hours_max", "vCPU hours a month"), ("budget", "budget a month"),
)  # fmt: skip


@pages.add("/usage")
def see_usage() -> Response:
    """The present month so far, or the one of ``?month=``, like 2026-11."""
    who, served = caller(), service()
    found = served.usage.month(who, request.args.get("month") or None)
    present = served.usage.month(who)["month"] if "month" in request.args else found["month"]
    return show(
        "usage.html", usage=found, limits=_LIMITS, present=present, former=_beside(found["month"], -1),
        later=_beside(found["month"], 1) if found["month"] < present else None,
    )  # fmt: skip


def _beside(month: str, months: int) -> str:
    """The month so many months later."""
    year, number = (int(part) for part in month.split("-"))
    year, number = divmod(year * 12 + number - 1 + months, 12)
    return f"{year:04}-{number + 1:02}"
