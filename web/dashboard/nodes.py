"""Nodes: all of them with who sells them and who waits for one, and one of them."""

from __future__ import annotations

from urllib.parse import urlencode

from flask import Response, request

from web.auth import caller
from web.dashboard.frame import Pages, show
from web.dashboard.histories import EVENTS_READ, History
from web.door import service

PAGE_ROWS = 50

pages = Pages("nodes")


@pages.add("/nodes")
def see_nodes() -> Response:
    """Nodes, providers and the queue; ``?destroyed=1`` shows those that are gone as well, ``?line=`` who is further on."""
    who, served = caller(), service()
    after = served.events.place("now")
    gone = request.args.get("destroyed") == "1"
    nodes, cursor = served.nodes.page(
        who, with_destroyed=gone, limit=PAGE_ROWS, cursor=request.args.get("cursor") or None
    )
    queue = served.line.page(who, limit=PAGE_ROWS, cursor=request.args.get("line") or None)
    return show(
        "nodes.html", after=after, gone=gone, nodes=nodes, providers=served.providers.for_sale(who), queue=queue,
        following=_here(cursor=cursor) if cursor else None, first=_here(cursor=None) if "cursor" in request.args else None,
        line_following=_here("#queue", line=queue["next_cursor"]) if queue["next_cursor"] else None,
        line_first=_here("#queue", line=None) if "line" in request.args else None,
    )  # fmt: skip


def _here(place: str = "", **other: str | None) -> str:
    """The address of this page with another part of one of its lists."""
    asked = {name: request.args.get(name) for name in ("destroyed", "cursor", "line")} | other
    return "/nodes?" + urlencode({name: value for name, value in asked.items() if value}) + place


@pages.add("/nodes/<node_id>")
def see_node(node_id: str) -> Response:
    """One node, its tasks and its history."""
    who, served = caller(), service()
    node = served.nodes.show(who, node_id)
    history = History(served.events.newest_of_node(who, node_id, EVENTS_READ))
    return show(
        "node.html", node=node, tasks=served.lookups.tasks_on(who, node_id), history=history,
    )  # fmt: skip
