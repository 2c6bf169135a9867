"""Pages of other origins: none may call the API, but those that ``TASKFLOW_CORS_ORIGINS`` names, letter by letter.

A page has to send a bearer token of its own: browsers are never told to send what they know of this host (cookies).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from flask import Flask, Response, current_app, request

from taskflow.errors import UsageError
from taskflow.settings import Settings

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")
#: Where a browser may call from elsewhere. Callbacks are for machines, the rest is public or of this host.
_PATHS = "/api/"
_PREFLIGHT: Mapping[str, str] = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID,"
    " X-Request-Id",
    "Access-Control-Max-Age": "600",
}
_EXPOSED = "ETag, Idempotent-Replayed, Location, Retry-After, X-Log-Ended, X-Log-Next, X-Request-Id"


def register(app: Flask, settings: Settings) -> None:
    """Let pages of the origins of ``settings`` call ``app``. Raises ``UsageError`` for what is no origin."""
    origins = frozenset(one.strip() for one in settings.cors_origins.split(",") if one.strip())
    wrong = sorted(one for one in origins if not _ORIGIN.fullmatch(one))
    if wrong:
        raise UsageError(
            f"TASKFLOW_CORS_ORIGINS: {wrong[0]!r} is no origin",
            fields={
                "TASKFLOW_CORS_ORIGINS": "must hold exact origins, like https://a.example or http://localhost:3000"
            },
        )
    if origins:
        app.extensions["taskflow.cors"] = origins
        app.before_request(_preflight)
        app.after_request(_allow)


def _preflight() -> Response | None:
    """The answer to a browser that asks before it calls; such a request has no token."""
    asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    return Response(status=204, headers=dict(_PREFLIGHT)) if asks and _origin() else None


def _allow(response: Response) -> Response:
    if request.path.startswith(_PATHS):
        response.vary.add("Origin")
    origin = _origin()
    if origin is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED
    return response


def _origin() -> str | None:
    """The origin of this request, if its page may call what it calls."""
    origin = request.headers.get("Origin", "")
    allowed: frozenset[str] = current_app.extensions["taskflow.cors"]
    return origin if origin in allowed and request.path.startswith(_PATHS) else None
