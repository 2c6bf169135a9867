"""Health: is the process alive, and can it work?"""

from __future__ import annotations

from typing import Any

import structlog
from flask import Response

from web.api import answers
from web.api.routes import Routes
from web.auth import PUBLIC
from web.door import service
from web.errors import RETRY_AFTER_S, error_response

log = structlog.get_logger(__name__)

routes = Routes("health", "For load balancers and supervisors")


@routes.add("GET", "/healthz", guard=PUBLIC, answers={200: answers.AliveSchema})
def get_alive() -> dict[str, Any]:
    """Say that the process serves; asks no store."""
    return {"alive": True}


@routes.add(
    "GET",
    "/readyz",
    guard=PUBLIC,
    answers={200: answers.ReadySchema},
    refusals={503: "`detail.checks` says which fail"},
)
def get_ready() -> dict[str, Any] | Response:
    """Say whether everything is there that tasks need: stores that answer and take writes, a worker, and beat.

    The checks: `database`, `redis` and `migrations` (the schema of this release); where those are in order
    `database_writes` and `redis_writes`, and where these are too `worker` and `beat`.
    """
    found = service().health.ready()
    if found["ready"]:
        return found
    failing = [name for name, says in found["checks"].items() if says != "ok"]
    # What a driver said (hosts, users) is for the log: anybody may ask here.
    log.warning("not_ready", **{name: found["checks"][name] for name in failing})
    return error_response(
        503,
        "not_ready",
        f"not ready: {', '.join(failing)}",
        advice="the log says why; so does: taskflow doctor",
        detail={"checks": {name: "ok" if says == "ok" else "failed" for name, says in found["checks"].items()}},
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
