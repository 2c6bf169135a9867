"""The routes of the API and its document."""

from __future__ import annotations

from typing import Any

from flask import Flask
from flask_smorest import Api
from werkzeug.routing import UnicodeConverter

from web.api import (
    agent,
    audit,
    callbacks,
    document,
    events,
    forms,
    health,
    history,
    line,
    metrics,
    nodes,
    overview,
    providers,
    runs,
    sweeps,
    tasks,
    tokens,
    usage,
)
from web.api.answers import ErrorBodySchema

#: What several tasks are asked for at once is no task: a request of another method is told so.
VERBS = ("cancel", "rerun")


class _Thing(UnicodeConverter):
    """A part of a path that is the id of a thing. A name that anybody may choose is a ``string`` instead."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.regex = rf"(?!(?:{'|'.join(VERBS)})\Z){self.regex}"


def register(app: Flask) -> None:
    """Add the user's routes, then the callbacks, each in blueprints of their own, and the document of all of them."""
    app.url_map.converters["default"] = _Thing
    api: Any = Api(spec_kwargs=document.spec_options())
    api.ERROR_SCHEMA = ErrorBodySchema
    api.init_app(app)
    api.ma_plugin.converter.add_attribute_function(forms.describe)
    document.describe_tokens(api.spec)
    users = (tasks, runs, history, line, events, nodes, providers, usage, sweeps, overview, tokens, audit)
    for part in (*users, agent, health, metrics, document):
        api.register_blueprint(part.routes.blueprint)
    for routes in (callbacks.node_routes, callbacks.workspace_routes, runs.callback_routes):
        api.register_blueprint(routes.blueprint)
    app.extensions["taskflow.document"] = api.spec.to_dict()
