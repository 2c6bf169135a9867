"""The node agent's file, for the servers that will run it."""

from __future__ import annotations

from flask import Response, send_file

from taskflow import protocol
from web.api.routes import Routes
from web.auth import PUBLIC
from web.door import service

routes = Routes("agent", "What a new server fetches")
_BYTES = {"type": "string", "format": "binary"}


@routes.add("GET", protocol.AGENT_FILE, guard=PUBLIC, answers={200: _BYTES}, content_type="application/zip")
def get_agent() -> Response:
    """Fetch the node agent: one file that a bare Python runs. It holds no secret."""
    path = service().agent_file()
    # The name says what is in it, so it is its own ETag.
    return send_file(path, mimetype="application/zip", etag=path.stem.removeprefix("agent-"), conditional=True)
