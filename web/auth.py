"""Who may call a route. Every view declares a guard; a view without one is never reached.

==========  =======================================================================================
public      no token
api         a user's token; acts for its owner, and another owner's things do not exist for it (404)
node        the callback token of exactly the node that the path names
bootstrap   the bootstrap token of exactly the node that the path names, until its agent is ready
workspace   the callback token of exactly the workspace that the path names
==========  =======================================================================================

Nodes and workspaces sign their requests with the callback token (``taskflow.signing``); the token itself as a bearer
is as good there, for a person with curl. Everybody else sends a bearer token.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import Flask, current_app, g, request

from taskflow.errors import NotFound
from taskflow.service import Caller
from web.context import allow_body, read_body
from web.door import service
from web.limits import RequestLimit

F = TypeVar("F", bound=Callable[..., Any])

_GUARD = "taskflow_guard"
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,80}\Z")
#: A session's report names up to a thousand changed files, each as long as a path can be, escaped in JSON. One that is
#: refused for its length would leave the task without its outcome.
CALLBACK_BODY_BYTES_MAX = 32 * 1024 * 1024


@dataclass(frozen=True)
class Guard:
    """The auth class of a route. ``subject``: the path parameter that the token must be for."""

    scope: str
    subject: str | None = None

    @property
    def signable(self) -> bool:
        """Whether who calls it may sign instead of showing the token."""
        return self.scope in ("node", "workspace")

    @property
    def callback(self) -> bool:
        """Whether machines of ours call it, which know the statuses of ``taskflow.protocol`` only."""
        return self.subject is not None


PUBLIC = Guard("public")
API = Guard("api")
#: A page for people, and what it loads before anybody is known.
PAGE = API
PUBLIC_PAGE = PUBLIC
NODE = Guard("node", "node_id")
BOOTSTRAP = Guard("bootstrap", "node_id")
WORKSPACE = Guard("workspace", "workspace_id")


def guarded(guard: Guard) -> Callable[[F], F]:
    """Declare who may call the view."""

    def decorator(view: F) -> F:
        setattr(view, _GUARD, guard)
        return view

    return decorator


def guard_of(view: Callable[..., Any]) -> Guard | None:
    """The guard that the view declared."""
    found: Guard | None = getattr(view, _GUARD, None)
    return found


def register(app: Flask) -> None:
    """Check the caller before any view of ``app``, and before its body is read."""
    app.before_request(_admit)


def caller() -> Caller:
    """Who makes this request."""
    found: Caller = g.caller
    return found


def _admit() -> None:
    if request.endpoint is None:
        return  # no such path or method: the dispatch answers
    guard = guard_of(current_app.view_functions[request.endpoint])
    if guard is None:
        raise RuntimeError(f"the route {request.url_rule} declares no guard")
    g.guard = guard
    if guard.scope == "public":
        return
    header = request.headers.get("Authorization", "")
    signed = None
    if guard.signable and header.partition(" ")[0].lower() == "signed":
        signed = service().signatures.check(header, guard.scope, method=request.method, target=_target())
        g.caller = signed.caller
    else:
        g.caller = _bearer(guard)
    named: dict[str, str] = request.view_args or {}
    if guard.subject is not None:
        g.caller.must_be(guard.scope, named[guard.subject])
        allow_body(CALLBACK_BODY_BYTES_MAX)
    for name, value in named.items():
        if not _ID.match(value):  # no id of ours; some databases fail on such a text instead of finding nothing
            raise NotFound("no such thing", fields={name: "is no id"})
    if signed is not None:
        signed.check_body(read_body())


def _bearer(guard: Guard) -> Caller:
    authorization = request.authorization
    token = authorization.token if authorization is not None and authorization.type == "bearer" else None
    if guard is API and token:
        limit: RequestLimit = current_app.extensions["taskflow.limit"]
        limit.count(token)  # first of all: a flood must not reach the database
    return service().accounts.authenticate(token, guard.scope)


def _target() -> str:
    """What the sender signed: the path of ``taskflow.protocol``, whatever a proxy has in front of it, and the query."""
    query = request.query_string.decode("latin-1")
    return f"{request.path}?{query}" if query else request.path
