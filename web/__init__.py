"""The HTTP room: API, dashboard, the callbacks of nodes and workspaces, health. It holds no rule of the product."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from taskflow import logs
from taskflow.settings import Settings
from web import api, audit, auth, conditional, context, cors, dashboard, errors, sessions, sign_in
from web.door import Door
from web.limits import RequestLimit
from web.streams import Streams

if TYPE_CHECKING:
    from taskflow.service import Service

__all__ = ["create_app"]


def create_app(service: Service | None = None, settings: Settings | None = None) -> Flask:
    """The WSGI application over ``service``.

    Without a service the app is a process of its own, as under gunicorn: settings come from the environment unless
    given, logging is set up, and the stores are connected at the first request, so after the server forked. Raises
    ``UsageError`` naming every setting with a wrong value, ``InfrastructureError`` where traces can't be made.
    """
    if service is None:
        settings = settings or Settings.from_env()
        logs.configure(settings)
    app = Flask("web", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["taskflow"] = door = Door(service, settings)
    if service is None:
        door.meter()  # what can't be made is said at the start
    limits = settings or Settings()
    if limits.trusted_proxies:
        # The address alone: the public name and scheme of this host are a setting.
        proxied = ProxyFix(app.wsgi_app, x_for=limits.trusted_proxies, x_proto=0)
        app.wsgi_app = proxied  # type: ignore[method-assign]
    app.extensions["taskflow.limit"] = RequestLimit(limits.token_request_rate)
    app.extensions["taskflow.streams"] = Streams(limits)
    context.register(app)
    cors.register(app, limits)  # before who calls is looked at: a preflight has no token
    auth.register(app)
    audit.register(app)
    sessions.register(app, limits)
    conditional.register(app)
    api.register(app)
    sign_in.register(app, limits)
    dashboard.register(app)
    errors.register(app)  # last: it replaces the handlers that the API extension brings
    return app
