"""Who may call a route. Every view declares a guard; a view without one is never reached.

==========  =======================================================================================
public      no token
api         a user: a token with the role that the guard names, or a browser that is signed in with one; acts for its
            owner, and another owner's things do not exist for it (404)
page        a browser that is signed in; any other is sent to the sign-in page
node        the callback token of exactly the node that the path names
bootstrap   the bootstrap token of exactly the node that the path names, until its agent is ready
workspace   the callback token of exactly the workspace that the path names
metrics     the token of the metrics, which is nobody's: they are about everybody's tasks
run         the callback token of exactly the run and the signal that the path names
==========  =======================================================================================

Nodes and workspaces sign their requests with the callback token (``taskflow.signing``); the token itself as a bearer
is as good there, for a person with curl. Everybody else sends a bearer token, or the cookie of a browser that is signed in;
with a cookie, what writes also carries the token of ``web.sessions``. Who signals a run may send its token as the password
of HTTP Basic instead, which many senders of webhooks take from the address they are given.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from flask import Flask, Response, abort, current_app, g, redirect, request, url_for
from werkzeug.datastructures import Authorization

from taskflow.errors import NotFound, Unauthorized
from taskflow.service import Caller
from taskflow.service.accounts import ADMIN, OPERATOR, VIEWER
from web import sessions
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
    """The auth class of a route. ``subject``: the path parameter that the token must be for. ``role``: the least that a
    user needs. ``page``: a person's browser reads the answer, so no part of the API."""

    scope: str
    subject: str | None = None
    role: str = ""
    page: bool = False

    @property
    def signable(self) -> bool:
        """Whether who calls it may sign instead of showing the token."""
        return self.scope in ("node", "workspace")

    @property
    def challenge(self) -> str:
        """How to show who one is, as ``WWW-Authenticate``. Many senders show a password only when asked for it."""
        return 'Bearer, Basic realm="taskflow"' if self.scope == "run" else "Bearer"

    @property
    def callback(self) -> bool:
        """Whether machines of ours call it, which know the statuses of ``taskflow.protocol`` only."""
        return self.subject is not None and self is not RUN


PUBLIC = Guard("public")
#: Of signing in and out, which do their own checks, and of what pages load before anybody is known.
PUBLIC_PAGE = Guard("public", page=True)
#: Reads.
API = Guard("api", role=VIEWER)
API_WRITE = Guard("api", role=OPERATOR)
API_ADMIN = Guard("api", role=ADMIN)
PAGE = Guard("page", role=VIEWER, page=True)
NODE = Guard("node", "node_id")
BOOTSTRAP = Guard("bootstrap", "node_id")
WORKSPACE = Guard("workspace", "workspace_id")
METRICS = Guard("metrics")
RUN = Guard("run", "run_id")


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
    app.after_request(_note_use)


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
    if guard is METRICS:
        service().metrics.check(_token())
        return
    header = request.headers.get("Authorization", "")
    signed = None
    if guard.signable and header.partition(" ")[0].lower() == "signed":
        signed = service().signatures.check(header, guard.scope, method=request.method, target=_target())
        g.caller = signed.caller
    elif guard is RUN:
        g.caller = _outsider()
    elif guard.page or (guard.scope == "api" and not header and sessions.shown()):
        _admit_browser(guard)
    else:
        g.caller = _bearer(guard)
    named: dict[str, str] = request.view_args or {}
    if guard.subject is not None:
        g.caller.must_be(guard.scope, named[guard.subject])
    if guard.callback:
        allow_body(CALLBACK_BODY_BYTES_MAX)
    if guard.role:
        g.caller.must_have(guard.role)
    for name, value in named.items():
        if not _ID.match(value):  # no id of ours; some databases fail on such a text instead of finding nothing
            raise NotFound("no such thing", fields={name: "is no id"})
    structlog.contextvars.bind_contextvars(**{name: value for name, value in named.items() if name.endswith("_id")})
    if signed is not None:
        signed.check_body(read_body())


def _admit_browser(guard: Guard) -> None:
    secret = sessions.shown()
    if secret:
        _limit().count(secret)
    try:
        g.caller = sessions.authenticate()
    except Unauthorized:
        if not guard.page:
            raise
        # Where they wanted to go is kept when going there changes nothing.
        wanted = _target() if request.method in sessions.SAFE_METHODS else None
        abort(redirect(url_for("sign_in.login", next=wanted), 303))
    sessions.check_csrf(form=guard.page)


def _bearer(guard: Guard) -> Caller:
    token = _token()
    if guard.scope == "api" and token:
        _limit().count(token)  # first of all: a flood must not reach the database
    return service().accounts.authenticate(token, guard.scope)


def _authorization() -> Authorization | None:
    """What the header of that name holds; None also for what nobody can read."""
    try:
        return request.authorization
    except ValueError:  # of Basic, letters that are none of its alphabet
        return None


def _token() -> str | None:
    authorization = _authorization()
    return authorization.token if authorization is not None and authorization.type == "bearer" else None


def _limit() -> RequestLimit:
    limit: RequestLimit = current_app.extensions["taskflow.limit"]
    return limit


def _note_use(response: Response) -> Response:
    who: Caller | None = g.get("caller")
    if who is not None and who.role:
        served = service()
        served.accounts.note_use(who)
        served.browsers.note_seen(who)
    return response


def _outsider() -> Caller:
    """Who shows the token of one signal of one run."""
    authorization, named = _authorization(), request.view_args or {}
    token = None
    if authorization is not None:
        token = authorization.token if authorization.type == "bearer" else authorization.get("password")
    if token:
        _limit().count(token)
    return service().runs.caller_of_callback(token, named["run_id"], named["name"])


def _target() -> str:
    """What the sender signed: the path of ``taskflow.protocol``, whatever a proxy has in front of it, and the query."""
    query = request.query_string.decode("latin-1")
    return f"{request.path}?{query}" if query else request.path
