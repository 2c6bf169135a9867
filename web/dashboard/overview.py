"""The first page: what needs attention, what goes on, how long it takes, and whether everything works."""

from __future__ import annotations

from typing import Any

from flask import Response

from web.auth import caller
from web.dashboard import drawings
from web.dashboard.frame import Pages, show
from web.door import service

pages = Pages("overview")


@pages.add("/")
def see_overview() -> Response:
    """The first page."""
    who, served = caller(), service()
    after = served.events.place("now")  # first: what happens while the rest is read is followed
    numbers, installation = served.overview.numbers(who), served.overview.installation()
    nodes = served.nodes.list(who)
    lost = [node for node in nodes if node["unreachable_since"] or node["status"] == "error"]
    ended, most_ended = drawings.stacked(numbers["hours"])
    took, longest_s = drawings.lengths(numbers["hours"])
    return show(
        "overview.html", after=after, numbers=numbers, installation=installation, lost=lost, nodes=nodes,
        calm=_is_calm(numbers, installation, lost), ended=ended, most_ended=most_ended, took=took, longest_s=longest_s,
        chart=(drawings.CHART_WIDTH, drawings.CHART_HEIGHT), running=_sum(numbers, "delegated", "in_progress"),
        waiting=_sum(numbers, "ready", "queued"),
    )  # fmt: skip


def _sum(numbers: dict[str, Any], *statuses: str) -> int:
    return sum(numbers["open"][status] for status in statuses)


def _is_calm(numbers: dict[str, Any], installation: dict[str, Any], lost: list[Any]) -> bool:
    """Whether nothing needs anybody's attention."""
    alarms = installation["alarms"]
    return not (
        numbers["failed_count"] or lost or installation["sweeps"] or installation["providers"] or alarms is None
        or alarms["late"] or any(says != "ok" for says in installation["checks"].values())
        or "late" in (installation["worker"]["state"], installation["beat"]["state"])
    )  # fmt: skip
