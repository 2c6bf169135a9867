"""Nodes: all of them with who sells them and who waits for one, and one of them."""

from __future__ import annotations

from flask import Response, request

from web.auth import caller
from web.dashboard.frame import Pages, show
from web.dashboard.histories import EVENTS_READ, History
from web.door import service

pages = Pages("nodes")


@pages.add("/nodes")
def see_nodes() -> Response:
    """Nodes, providers and the queue; ``?destroyed=1`` shows those that are gone as well."""
    who, served = caller(), service()
    after = served.events.place("now")
    gone = request.args.get("destroyed") == "1"
    return show(
        "nodes.html", after=after, gone=gone, nodes=served.nodes.list(who, with_destroyed=gone),
        providers=served.providers.for_sale(who), queue=served.line.page(who),
    )  # fmt: skip


@pages.add("/nodes/<node_id>")
def see_node(node_id: str) -> Response:
    """One node, its tasks and its history."""
    who, served = caller(), service()
    node = served.nodes.show(who, node_id)
    history = History(served.events.newest_of_node(who, node_id, EVENTS_READ))
    return show(
        "node.html", node=node, tasks=served.lookups.tasks_on(who, node_id), history=history,
    )  # fmt: skip
