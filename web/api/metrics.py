"""Metrics for Prometheus."""

from __future__ import annotations

from flask import Response

from taskflow.service.metrics import CONTENT_TYPE
from web.api.routes import Routes
from web.auth import METRICS
from web.door import service

routes = Routes("metrics", "For Prometheus")
_TEXT = {"type": "string"}


@routes.add("GET", "/metrics", guard=METRICS, answers={200: _TEXT}, content_type="text/plain")
def get_metrics() -> Response:
    """Read what the processes of this host counted and what the stores hold, over all owners. It names none of them."""
    return Response(service().metrics.text(), content_type=CONTENT_TYPE)
