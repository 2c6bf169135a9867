"""Who waits for capacity."""

from __future__ import annotations

from typing import Any

from web.api import queries, reports
from web.api.routes import Routes
from web.auth import API, caller
from web.door import service

routes = Routes("queue", "Who waits for a place on a node")


@routes.add(
    "GET",
    "/api/queue",
    guard=API,
    query=queries.QueueQuerySchema,
    answers={200: reports.QueuePageSchema},
    refusals={400: "not a cursor of ours"},
)
def list_queue(query: dict[str, Any]) -> dict[str, Any]:
    """List the tasks that wait for capacity, in the order in which they are served, and for what each waits.

    The order is that of age, with priority counted as age. A task that waits for a limit is passed over by those behind it.
    """
    return service().line.page(caller(), limit=query["limit"], cursor=query["cursor"])
