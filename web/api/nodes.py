"""Nodes, for the people who own them."""

from __future__ import annotations

from typing import Any

from web.api import answers, schemas
from web.api.routes import Routes
from web.auth import API, caller
from web.door import service

routes = Routes("nodes", "The machines on which tasks run")


@routes.add("GET", "/api/nodes", guard=API, query=schemas.NodeListQuerySchema, answers={200: answers.NodeListSchema})
def list_nodes(query: dict[str, Any]) -> dict[str, Any]:
    """List nodes, newest first."""
    return {"nodes": service().nodes(caller(), with_destroyed=query["destroyed"])}


@routes.add(
    "GET",
    "/api/nodes/<node_id>",
    guard=API,
    answers={200: answers.NodeSchema},
    refusals={404: "no such node, or not yours"},
)
def read_node(node_id: str) -> dict[str, Any]:
    """Read a node."""
    return service().node(caller(), node_id)


@routes.add(
    "POST",
    "/api/nodes/<node_id>/destroy",
    guard=API,
    body=schemas.ReasonSchema,
    answers={202: answers.NodeSchema},
    refusals={404: "no such node, or not yours"},
)
def destroy_node(body: dict[str, Any], node_id: str) -> dict[str, Any]:
    """Ask a node to drain and go.

    It takes no new workspace, waits for the live ones, then its server is destroyed. Repeating it changes nothing.
    """
    return service().destroy_node(caller(), node_id, body["reason"])
