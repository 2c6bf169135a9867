"""One shape for every error that leaves this process::

    {"error": {"code", "message", "request_id", "fields"?, "advice"?, "detail"?}}

A person's browser gets the same as a page, where it asked for a page.

============  =========================================================================================
400           not JSON at all, or a value that the product refuses (``UsageError``)
401 403       no valid token; a valid one that is not for this
404 405       no such thing, or not yours; no such method
409 410       not in a state that allows this; ended
413 415       the body is too long; is not JSON
422           the body or query does not fit the schema; ``fields`` names each wrong field
500           a fault of ours; the log has it under the request id, the answer says nothing of it
429           past a limit of the caller's own (``TooMany``); ``Retry-After`` says when to ask again
503           a store is not usable (``InfrastructureError``), or no more is taken (``Overloaded``); ``Retry-After``
============  =========================================================================================

A refusal of a callback's form (413, 415, 422) is answered 400: that is the status after which its sender stops, by
``taskflow.protocol``. With any other it would send the same bytes for ever.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from typing import Any

import structlog
from flask import Flask, Response, current_app, g, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from taskflow.errors import InfrastructureError, Overloaded, TaskflowError, TooMany, TransientError, UsageError
from web.context import request_id

log = structlog.get_logger(__name__)

RETRY_AFTER_S = 2
_SAID = {
    400: ("bad_request", "the request can't be understood"),
    404: ("not_found", "no such path"),
    405: ("method_not_allowed", "the path does not know this method"),
    413: ("too_large", "the body is too long"),
    415: ("unsupported_media_type", "a body must be application/json"),
}
_KEPT_HEADERS = ("Allow", "Retry-After")


class InvalidRequest(UsageError):
    """The body or query does not fit the schema of the route. ``fields`` names each wrong field."""

    code = "invalid"
    http_status = 422


def register(app: Flask) -> None:
    """Answer every error of ``app`` in the one shape."""
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(TaskflowError, _taskflow_error)
    app.register_error_handler(Exception, _unknown_error)


def error_response(
    status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None, **extra: Any
) -> Response:
    """The answer; of ``extra`` (fields, advice, detail) only what is set."""
    g.error_code = code  # for the audit trail
    body = {"code": code, "message": message, **{k: v for k, v in extra.items() if v}, "request_id": request_id()}
    drawn = current_app.extensions["taskflow.error_page"](status, body)
    response: Response = jsonify({"error": body}) if drawn is None else drawn
    response.status_code = _final(status)
    response.headers.update(headers or {})
    return response


def _final(status: int) -> int:
    guard = g.get("guard")
    return 400 if guard is not None and guard.callback and status in (413, 415, 422) else status


def _http_error(error: HTTPException) -> AnyResponse:
    status = error.code or 500
    if status < 400:  # a redirect is no error
        return error.get_response()
    if status >= 500:
        log.error("request_failed", method=request.method, path=request.path, error=repr(error))
    code, message = _SAID.get(status, (error.name.lower().replace(" ", "_"), error.name.lower()))
    headers = {k: v for k, v in error.get_headers() if k in _KEPT_HEADERS}
    if status == 413:
        limit = request.max_content_length
        return error_response(
            status, code, f"the body is longer than {limit} bytes", headers=headers, detail={"limit_bytes": limit},
            fields={"body": f"must not be longer than {limit} bytes"},
        )  # fmt: skip
    return error_response(status, code, message, headers=headers)


def _taskflow_error(error: TaskflowError) -> Response:
    if isinstance(error, Overloaded):
        return error_response(
            503, error.code, error.message, advice=error.advice, detail=error.detail,
            headers=retry_after(error.retry_after_s),
        )  # fmt: skip
    if isinstance(error, UsageError):
        guard = g.get("guard")
        headers = None
        if error.http_status == 401:
            headers = {"WWW-Authenticate": "Bearer" if guard is None else guard.challenge}
        if isinstance(error, TooMany):
            headers = retry_after(error.retry_after_s)
        return error_response(
            error.http_status, error.code, error.message, headers=headers, fields=error.fields,
            advice=error.advice, detail=error.detail,
        )  # fmt: skip
    if isinstance(error, (InfrastructureError, TransientError)):
        # What the driver said (hosts, names) is for the log: the caller may be anybody.
        log.error("infrastructure", code=error.code, error=error.message, path=request.path)
        return error_response(
            503, error.code, "a store this service needs is not usable now", advice=error.advice,
            detail={"store": error.detail["store"]} if "store" in error.detail else None,
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )  # fmt: skip
    return _unknown_error(error)


def retry_after(seconds: float) -> dict[str, str]:
    """The header that says in how many seconds to ask again: whole ones, and never too few."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def _unknown_error(error: Exception) -> Response:
    # Made a text here: a renderer that shows the locals of each frame would show secrets.
    trace = "".join(traceback.format_exception(error))
    log.error("request_failed", method=request.method, path=request.path, exception=trace)
    return error_response(500, "internal", "something went wrong here; the log has it under the request id")
