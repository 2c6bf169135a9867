"""What was used, for the people who pay for it."""

from __future__ import annotations

from typing import Any

from web.api import answers, queries
from web.api.routes import Routes
from web.auth import API, caller
from web.door import service

routes = Routes("usage", "What nodes cost and tasks used")


@routes.add("GET", "/api/usage", guard=API, query=queries.UsageQuerySchema, answers={200: answers.UsageSchema})
def read_usage(query: dict[str, Any]) -> dict[str, Any]:
    """Read what you used in a month so far, by provider and by project, with the limits in force now.

    Nodes cost from their purchase to their end, by the second; what no task used of them is idle.
    """
    return service().usage.month(caller(), query["month"])
