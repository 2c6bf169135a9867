"""The session of a browser: its cookie, and what shows that a request which writes was made by a page of ours.

The cookie goes with every request to this host, whoever made the page that sends it. So a request that writes also
carries a text that only our pages know, and names no other site as the one it comes from.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, g, request

from taskflow.errors import Forbidden, Unauthorized
from taskflow.service import Caller
from taskflow.settings import Settings
from web.door import service

COOKIE = "taskflow_session"
CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf_token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class _Cookie:
    """How long the browser keeps the cookie, whether it shows it over https alone, and the public name of this host, which
    a proxy may hide from us."""

    max_age_s: int
    secure: bool
    public_host: str

    @property
    def name(self) -> str:
        """Over https alone, one that browsers take from nobody but this very host: no page of a host beside it, and nobody
        on the way of an http request, can plant a session of their own, in which somebody would work without knowing."""
        return f"__Host-{COOKIE}" if self.secure else COOKIE


def register(app: Flask, settings: Settings) -> None:
    """Let the browsers of ``app`` be signed in."""
    public = urlsplit(settings.public_url.lower())
    app.extensions["taskflow.cookie"] = _Cookie(
        int(settings.browser_session_s), public.scheme == "https", public.netloc
    )


def csrf_token() -> str:
    """What a request of this browser that writes has to carry, as the header ``X-CSRF-Token`` or, from a form, the field
    ``csrf_token``; '' for a caller who shows a bearer token, which needs none."""
    return str(g.get("csrf_token", ""))


def shown() -> str | None:
    """What the cookie of this request holds."""
    return request.cookies.get(_cookie().name) or None


def authenticate() -> Caller:
    """Who is signed in with the browser that makes this request. Raises ``Unauthorized`` when nobody is."""
    secret = shown()
    if secret is None:
        raise Unauthorized("this browser is not signed in", code="signed_out")
    browser = service().browsers.authenticate(secret)
    g.csrf_token = browser.csrf_secret
    return browser.caller


def check_csrf(*, form: bool) -> None:
    """Raise ``Forbidden`` unless this request, if it writes, was made by a page that the same session was given.

    ``form``: the field of a form is as good as the header.
    """
    if request.method in SAFE_METHODS:
        return
    check_origin()
    carried = request.headers.get(CSRF_HEADER, "")
    if not carried and form:
        carried = request.form.get(CSRF_FIELD, "")
    expected = csrf_token()
    if not expected or not hmac.compare_digest(carried.encode(), expected.encode()):
        raise Forbidden(
            f"a browser's request that writes needs the header {CSRF_HEADER} of its session", code="csrf",
            advice="load the page again; programs send a bearer token instead",
        )  # fmt: skip


def check_origin() -> None:
    """Raise ``Forbidden`` when the browser says that the request comes from another site."""
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    if site is not None:
        same = site in ("same-origin", "none")
    else:
        named = "" if origin is None else _host_of(origin)
        same = origin is None or (named != "" and named in (request.host, _cookie().public_host))
    if not same:
        raise Forbidden("the request comes from a page of another site", code="csrf")


def _host_of(origin: str) -> str:
    """Its host and port; '' for what is no origin."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def sign_in(response: Response, secret: str) -> None:
    """Give the browser its cookie."""
    cookie = _cookie()
    response.set_cookie(
        cookie.name, secret, max_age=cookie.max_age_s, path="/", httponly=True, samesite="Lax", secure=_secure(cookie)
    )


def sign_out(response: Response) -> None:
    """Take the cookie back."""
    cookie = _cookie()
    response.delete_cookie(cookie.name, path="/", httponly=True, samesite="Lax", secure=_secure(cookie))


def _cookie() -> _Cookie:
    cookie: _Cookie = current_app.extensions["taskflow.cookie"]
    return cookie


def _secure(cookie: _Cookie) -> bool:
    return cookie.secure or request.is_secure
