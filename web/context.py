"""What surrounds every request: its id, limits of its body, its log line, and the headers of its answer."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import RequestEntityTooLarge

log = structlog.get_logger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"
BODY_BYTES_MAX = 1024 * 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
#: Answers are data of one caller: no cache keeps them, no browser guesses their type or runs or frames them.
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
#: Asked every few seconds by machines; their lines would hide the others.
_QUIET = ("/callbacks/", "/healthz", "/readyz", "/metrics")


def register(app: Flask) -> None:
    """Give every request of ``app`` an id, which its log lines and its answer carry."""
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES_MAX
    app.before_request(_begin)
    app.after_request(_finish)
    app.teardown_request(_forget)


def request_id() -> str:
    """The id of this request."""
    return str(g.request_id)


def _begin() -> None:
    given = request.headers.get(REQUEST_ID_HEADER, "")
    g.request_id = given if _REQUEST_ID.match(given) else uuid.uuid4().hex
    g.began = time.perf_counter()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _finish(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers[REQUEST_ID_HEADER] = request_id()
    took_s = time.perf_counter() - g.began
    route = "none" if request.url_rule is None else request.url_rule.rule
    current_app.extensions["taskflow"].meter().request(request.method, route, response.status_code, took_s)
    level = "debug" if request.path.startswith(_QUIET) and response.status_code < 500 else "info"
    # The path only: a query string is the caller's text.
    getattr(log, level)(
        "request",
        method=request.method,
        path=request.path,
        status=response.status_code,
        duration_ms=round(took_s * 1000, 1),
        caller=getattr(g.get("caller"), "actor", None),
    )
    return response


def _forget(_error: BaseException | None) -> None:
    structlog.contextvars.unbind_contextvars("request_id", *(request.view_args or ()))


def read_body() -> bytes:
    """The body of this request, read whole. Raises ``RequestEntityTooLarge`` beyond its limit."""
    body = request.get_data(cache=True)
    # A chunked body has no length to look at before: it is read up to the limit and no further, without a word.
    limit = request.max_content_length
    if request.content_length is None and limit is not None and len(body) >= limit:
        raise RequestEntityTooLarge()
    return body


def allow_body(bytes_max: int) -> None:
    """Let the body of this request be as long as ``bytes_max``."""
    if bytes_max > current_app.config["MAX_CONTENT_LENGTH"]:
        request.max_content_length = bytes_max
