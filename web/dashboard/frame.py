"""What all pages share: declaring one, drawing it, its files, its policy, and how an error looks to a person."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import structlog
from flask import Blueprint, Flask, Response, g, render_template, request, send_from_directory
from jinja2 import StrictUndefined

from taskflow.errors import Forbidden, UsageError
from taskflow.service.accounts import ADMIN, OPERATOR
from web.auth import PAGE, PUBLIC_PAGE, caller, guarded
from web.dashboard.words import FILTERS
from web.door import service
from web.sessions import csrf_token

log = structlog.get_logger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

#: Everything comes from here and nothing is inline, so a text that got through as HTML could still run nothing.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
#: Asked for by our own JavaScript: the part of the page that changes, without what surrounds it.
PART_HEADER = "X-Part"
_FILES = Path(__file__).parent / "static"
#: Paths whose callers are programs, whatever they accept.
_PROGRAMS = ("/api/", "/callbacks/", "/healthz", "/readyz", "/agent.pyz")
_WRITERS = (OPERATOR, ADMIN)
_KEPT_S = 365 * 86_400

files = Blueprint("files", __name__)


class Pages:
    """The pages of one file, as a blueprint."""

    def __init__(self, name: str) -> None:
        self.blueprint = Blueprint(f"pages_{name}", __name__, template_folder="templates")
        self.blueprint.before_request(_refuse_nul)

    def add(self, rule: str) -> Callable[[F], F]:
        """Register the view for GET on ``rule``; it is given the ids of the path, and only for who may see pages."""

        def decorator(view: F) -> F:
            self.blueprint.add_url_rule(rule, view.__name__, guarded(PAGE)(view))
            return view

        return decorator


def _refuse_nul() -> None:
    """No text of ours has it in it, and PostgreSQL fails at being asked for one that has."""
    wrong = {name: "must not contain NUL" for name, value in request.args.items(multi=True) if "\0" in value}
    if wrong:
        raise UsageError("there is nothing like that to look for", fields=wrong)


def register(app: Flask, *parts: Pages) -> None:
    """Add the pages of ``parts``, the files they load, and the page of an error."""
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(FILTERS)
    app.jinja_env.globals.update(file=_address)
    for part in parts:
        app.register_blueprint(part.blueprint)
    app.register_blueprint(files)
    app.extensions["taskflow.error_page"] = error_page


def show(template: str, code: int = 200, /, **context: Any) -> Response:
    """The page, whole or only the part that changes, as this request asks."""
    flower = service().lookups.flower_url if is_admin() else ""
    return _drawn(template, code, now=service().now(), who=caller(), flower=flower, **context)


def wrong_filters(error: UsageError, chosen: Mapping[str, str]) -> dict[str, str]:
    """What is wrong with each of the ``chosen`` filters, to say it there. Raises ``error`` where it is of no filter."""
    wrong = {name: says for name, says in error.fields.items() if name in chosen}
    if not wrong:
        raise error
    return wrong


def may_write() -> bool:
    """Whether the caller may change anything. Only decides what is offered: the API decides what is done."""
    return caller().role in _WRITERS


def is_admin() -> bool:
    """Whether the caller may see how the installation is set up."""
    return caller().role == ADMIN


def operators_only() -> None:
    """Raise ``Forbidden`` for who may only look at their own things."""
    if not may_write():
        raise Forbidden("this page is for operators and admins")


def admins_only() -> None:
    """Raise ``Forbidden`` for anybody but an admin."""
    if not is_admin():
        raise Forbidden("this page is for admins")


def _drawn(template: str, code: int, /, **context: Any) -> Response:
    part, known = PART_HEADER in request.headers, context.get("who") is not None
    text = render_template(
        template, layout="part.html" if part else "base.html", csrf=csrf_token(), path=request.path,
        may_write=known and may_write(), is_admin=known and is_admin(), **context,
    )  # fmt: skip
    response = Response(text, status=code, mimetype="text/html")
    response.headers["Content-Security-Policy"] = POLICY
    # A browser that is told to name no page at all names no origin either when it sends the form that signs out.
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Vary"] = PART_HEADER
    return response


def error_page(status: int, error: dict[str, Any]) -> Response | None:
    """The error as a page, when a person's browser asks; None: its caller is a program."""
    if request.path.startswith(_PROGRAMS) or "text/html" not in request.headers.get("Accept", ""):
        return None
    try:
        return _drawn("error.html", status, now=None, who=g.get("caller"), status=status, error=error)
    except Exception as failure:  # it must not hide the error it was to show
        log.error("error_page_failed", error=repr(failure))
        return None


@files.get("/static/<version>/<path:name>")
@guarded(PUBLIC_PAGE)
def get_file(version: str, name: str) -> Response:
    """A style sheet, a script or a picture. Its address changes with its content, so it may be kept for ever."""
    response = send_from_directory(_FILES, name)
    response.headers["Cache-Control"] = f"public, max-age={_KEPT_S}, immutable" if version == _version() else "no-store"
    return response


def _address(name: str) -> str:
    return f"/static/{_version()}/{name}"


@cache
def _version() -> str:
    """Of all files together: modules name each other by relative addresses."""
    digest = hashlib.sha256()
    for path in sorted(_FILES.rglob("*.*")):
        digest.update(f"{path.relative_to(_FILES)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
