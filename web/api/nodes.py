"""Nodes, for the people who own them."""

from __future__ import annotations

from typing import Any

from web.api import answers, queries, schemas
from web.api.keys import REPLAYED, WELCOME, idempotency_key, idempotency_parameter
from web.api.routes import Routes
from web.auth import API, API_ADMIN, API_WRITE, caller
from web.door import service

routes = Routes("nodes", "The machines on which tasks run")

_NO_NODE = {404: "no such node, or not yours"}
_Answer = tuple[dict[str, Any], int, dict[str, str]]


@routes.add(
    "GET",
    "/api/nodes",
    guard=API,
    query=queries.NodeListQuerySchema,
    answers={200: answers.NodePageSchema},
    refusals={400: "not a cursor of ours"},
)
def list_nodes(query: dict[str, Any]) -> dict[str, Any]:
    """List nodes, newest first."""
    page, cursor = service().nodes.page(
        caller(), with_destroyed=query["destroyed"], limit=query["limit"], cursor=query["cursor"]
    )
    return {"nodes": page, "next_cursor": cursor}


@routes.add(
    "POST",
    "/api/nodes",
    guard=API_ADMIN,
    body=schemas.NodeSpecSchema,
    answers={202: answers.NodeSchema},
    refusals={
        400: "no such provider, or it offers nothing like that",
        409: "the provider sells none now, or the Idempotency-Key was used with other content",
    },
    parameters=[idempotency_parameter("node")],
)
def add_node(spec: dict[str, Any]) -> _Answer:
    """Order a node by hand.

    It is used by tasks like any other, and stays, idle or not, until it is drained or destroyed. 429 also says that a
    limit of yours or a used up budget allows no further one: then nothing was ordered.
    """
    node, made = service().nodes.add(caller(), spec, idempotency_key=idempotency_key())
    headers = {"Location": f"/api/nodes/{node['id']}"}
    return node, 202, headers if made else {**headers, **REPLAYED}


@routes.add("GET", "/api/nodes/<node_id>", guard=API, answers={200: answers.NodeSchema}, refusals=_NO_NODE)
def read_node(node_id: str) -> dict[str, Any]:
    """Read a node."""
    return service().nodes.show(caller(), node_id)


@routes.add(
    "POST",
    "/api/nodes/<node_id>/drain",
    guard=API_WRITE,
    body=schemas.ReasonSchema,
    answers={202: answers.NodeSchema},
    refusals=_NO_NODE,
    parameters=[WELCOME],
)
def drain_node(body: dict[str, Any], node_id: str) -> dict[str, Any]:
    """Ask a node to drain and go.

    It takes no new workspace, waits for the live ones, then its server is destroyed. Repeating it changes nothing.
    """
    idempotency_key()
    return service().nodes.drain(caller(), node_id, body["reason"])


@routes.add(
    "POST",
    "/api/nodes/<node_id>/destroy",
    guard=API_ADMIN,
    body=schemas.DestroySchema,
    answers={202: answers.NodeSchema},
    refusals=_NO_NODE,
    parameters=[WELCOME],
)
def destroy_node(body: dict[str, Any], node_id: str) -> dict[str, Any]:
    """Let a node go: drain it, or with `force` destroy it at once.

    With `force` nothing is waited for, also when it drains already: the tasks that live on it fail with the code
    `node_destroyed`. Repeating it changes nothing.
    """
    idempotency_key()
    return service().nodes.destroy(caller(), node_id, body["reason"], force=body["force"])
