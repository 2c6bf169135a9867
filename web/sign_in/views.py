"""The sign-in page, its style, signing out, and a page that says who is signed in."""

from __future__ import annotations

import re
from collections.abc import Callable

import structlog
from flask import Blueprint, Response, current_app, make_response, redirect, render_template, request, url_for

from taskflow.errors import InfrastructureError, TaskflowError, TooMany, Unauthorized, UsageError
from taskflow.service.browsers import SignedIn, SignInRefused
from web import audit, sessions
from web.auth import PAGE, PUBLIC_PAGE, caller, guarded
from web.door import service
from web.errors import retry_after
from web.limits import SignInLimit

log = structlog.get_logger(__name__)

blueprint = Blueprint("sign_in", __name__, template_folder="templates", static_folder=None)

#: Nothing but what this host serves, no script at all, and forms are sent here only.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'",
    # A browser that is told to name no page where it comes from names no origin either when it sends a form.
    "Referrer-Policy": "same-origin",
}
#: A path of this host. What a browser might read as another host, or cut: //host, /\host, control characters.
_LOCAL = re.compile(r"/(?![/\\])[^\x00-\x20\\\x7f]*\Z")
_NEXT_MAX = 2000
_STYLE_MAX_AGE_S = 3600


@blueprint.get("/login")
@guarded(PUBLIC_PAGE)
def login() -> Response:
    """The page. With the code of a sign-in link it asks for one more press: a program that only looks at the link, as
    messengers do, must not use it up."""
    code, wanted = request.args.get("code", ""), local_path(request.args.get("next"))
    if not code and _is_signed_in():
        return _see_other(wanted)
    return _page(code=code, wanted=wanted)


@blueprint.post("/login")
@guarded(PUBLIC_PAGE)
def submit_login() -> Response:
    """Sign in with a token, or with the code of a link, and go on where one wanted to go."""
    wanted, code = local_path(request.form.get("next")), request.form.get("code", "")
    try:
        sessions.check_origin()
        _limit().count(request.remote_addr or "")
        signed_in = _audited("link", _by_code(code)) if code else _audited("token", _by_token)
    except (UsageError, InfrastructureError) as error:
        # The link is of no use any more: the page then asks for a token.
        return _refused(error, code="" if isinstance(error, Unauthorized) else code, wanted=wanted)
    response = _see_other(wanted)
    sessions.sign_in(response, signed_in.secret)
    return response


@blueprint.post("/logout")
@guarded(PAGE)
def logout() -> Response:
    """Sign this browser out."""
    secret = sessions.shown()
    if secret is not None:
        service().browsers.sign_out(secret)
    response = _see_other(url_for("sign_in.login"))
    sessions.sign_out(response)
    return response


@blueprint.get("/account")
@guarded(PAGE)
def account() -> Response:
    """Who is signed in with this browser."""
    who = service().tokens.who_is(caller())
    return _html("sign_in/account.html", who=who, csrf_token=sessions.csrf_token())


@blueprint.get("/login/style.css")
@guarded(PUBLIC_PAGE)
def style() -> Response:
    """The style of these pages."""
    with blueprint.open_resource("static/sign_in.css") as file:
        response = Response(file.read(), mimetype="text/css")
    response.headers["Cache-Control"] = f"public, max-age={_STYLE_MAX_AGE_S}"
    return response


def local_path(wanted: str | None) -> str:
    """Where to go after signing in: ``wanted`` when it is a path of this host, else the first page."""
    if wanted and len(wanted) <= _NEXT_MAX and _LOCAL.match(wanted):
        return wanted
    return "/"


def _is_signed_in() -> bool:
    try:
        sessions.authenticate()
    except (Unauthorized, InfrastructureError):
        return False
    return True


def _by_token() -> SignedIn:
    token = request.form.get("token", "").strip()
    if not token:
        raise UsageError("Enter a token.", fields={"token": "must not be empty"})
    return service().browsers.sign_in(token, _user_agent(), sessions.shown())


def _by_code(code: str) -> Callable[[], SignedIn]:
    return lambda: service().browsers.sign_in_with_code(code, _user_agent(), sessions.shown())


def _audited(by: str, sign_in: Callable[[], SignedIn]) -> SignedIn:
    data = {"by": by, "address": request.remote_addr}
    try:
        signed_in = sign_in()
    except SignInRefused as refused:
        audit.note(action="sign_in", outcome="refused", owner_id=refused.owner_id, token_id=refused.token_id, data=data)
        raise
    who = signed_in.caller
    audit.note(
        action="sign_in", outcome="done", owner_id=who.owner_id, token_id=who.token_id, actor=who.actor,
        data={**data, "browser_id": who.browser_id},
    )  # fmt: skip
    return signed_in


def _refused(error: TaskflowError, *, code: str, wanted: str) -> Response:
    if isinstance(error, UsageError):
        response = _page(code=code, wanted=wanted, problem=_sentence(error.message))
        response.status_code = error.http_status
    else:
        log.error("infrastructure", code=error.code, error=error.message, path=request.path)
        response = _page(code=code, wanted=wanted, problem="A store is not usable now. Try again in a moment.")
        response.status_code = 503
    if isinstance(error, TooMany):
        response.headers.update(retry_after(error.retry_after_s))
    return response


def _sentence(message: str) -> str:
    return f"{message[:1].upper()}{message[1:]}".rstrip(".") + "."


def _page(*, code: str, wanted: str, problem: str = "") -> Response:
    return _html("sign_in/login.html", code=code, whom=_whom(code) if code else None, wanted=wanted, problem=problem)


def _whom(code: str) -> dict[str, str] | None:
    """Who a link makes one: somebody may have been sent another's, to work there without knowing."""
    try:
        return service().browsers.whom(code)
    except InfrastructureError:
        return None  # the button says so too


def _html(template: str, **context: object) -> Response:
    response = make_response(render_template(template, **context))
    response.headers.update(_HEADERS)
    return response


def _see_other(path: str) -> Response:
    response = make_response(redirect(path, 303))
    response.headers.update(_HEADERS)
    return response


def _user_agent() -> str:
    return "".join(letter for letter in request.headers.get("User-Agent", "") if letter.isprintable())


def _limit() -> SignInLimit:
    limit: SignInLimit = current_app.extensions["taskflow.sign_in_limit"]
    return limit
