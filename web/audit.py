"""One line of the audit trail for each request of a user that writes, and for each sign-in, whatever came of it.

This is the only place where the web writes lines. 429 and 503 are none: nothing was done then, and a flood that is
refused must not become a flood of writes. A line is written when the work is done, by a transaction of its own: if that
fails, the log says so, and the caller is told what came of the work.
"""

from __future__ import annotations

import re
from typing import Any

import structlog
from flask import Flask, Response, g, request

from taskflow.errors import TaskflowError
from taskflow.service import Caller
from taskflow.service.audit import AuditEntry
from web.context import request_id
from web.door import service
from web.sessions import SAFE_METHODS

log = structlog.get_logger(__name__)

_UNWRITTEN = (429, 503)
#: What is called otherwise than its view.
_ACTIONS = {"sign_in.logout": "sign_out"}
_SUBJECT = re.compile(r"[A-Za-z0-9_.:-]{1,80}")
_MADE = re.compile(r"/api/(?P<kind>[a-z]+)s/(?P<id>[A-Za-z0-9_.:-]{1,80})")


def register(app: Flask) -> None:
    """Write the lines of ``app``."""
    app.after_request(_record)


def note(**said: Any) -> None:
    """What the line of this request says besides, or instead: ``action`` and what else an ``AuditEntry`` holds. Nothing of
    a body, and no secret."""
    g.audited = {**g.get("audited", {}), **said}


def _record(response: Response) -> Response:
    said: dict[str, Any] = g.get("audited", {})
    who: Caller | None = g.get("caller")
    by_user = who is not None and bool(who.role) and request.method not in SAFE_METHODS
    if (by_user or "action" in said) and response.status_code not in _UNWRITTEN:
        entry = AuditEntry(**{**_facts(who, response), **said, "data": _data(who, response) | said.get("data", {})})
        try:
            service().audit.record(entry)
        except Exception as error:  # whatever it was: the work is done, and another answer would be wrong
            why = error.code if isinstance(error, TaskflowError) else type(error).__name__
            log.error("audit_not_written", action=entry.action, outcome=entry.outcome, actor=entry.actor, code=why)
    return response


def _facts(who: Caller | None, response: Response) -> dict[str, Any]:
    status = response.status_code
    kind, subject_id = _subject(response)
    return {
        "action": _ACTIONS.get(str(request.endpoint)) or str(request.endpoint).rpartition(".")[2],
        "outcome": "done" if status < 400 else "refused" if status in (401, 403) else "failed",
        "actor": "nobody" if who is None else who.actor,
        "owner_id": None if who is None else who.owner_id,
        "token_id": None if who is None else who.token_id,
        "subject_kind": kind,
        "subject_id": subject_id,
        "request_id": request_id(),
    }


def _data(who: Caller | None, response: Response) -> dict[str, Any]:
    data: dict[str, Any] = {"status": response.status_code}
    if g.get("error_code"):
        data["code"] = g.error_code
    if who is not None and who.browser_id is not None:
        data["browser_id"] = who.browser_id
    if response.headers.get("Idempotent-Replayed"):
        data["replayed"] = True
    return data


def _subject(response: Response) -> tuple[str | None, str | None]:
    """What the path names, else what was made."""
    for name, value in (request.view_args or {}).items():
        if name.endswith("_id") and _SUBJECT.fullmatch(str(value)):
            return name.removesuffix("_id"), str(value)
    made = _MADE.fullmatch(response.headers.get("Location", "")) if response.status_code < 300 else None
    return (made["kind"], made["id"]) if made else (None, None)
