"""The HTTP room: API, dashboard, the callbacks of nodes and workspaces, health. It holds no rule of the product."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask

from taskflow import logs
from taskflow.settings import Settings
from web import api, auth, context, dashboard, errors
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
    ``UsageError`` naming every setting with a wrong value.
    """
    if service is None:
        settings = settings or Settings.from_env()
        logs.configure(settings)
    app = Flask("web", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["taskflow"] = Door(service, settings)
    limits = settings or Settings()
    app.extensions["taskflow.limit"] = RequestLimit(limits.token_request_rate)
    app.extensions["taskflow.streams"] = Streams(limits)
    context.register(app)
    auth.register(app)
    api.register(app)
    dashboard.register(app)
    errors.register(app)  # last: it replaces the handlers that the API extension brings
    return app
