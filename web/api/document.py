"""The OpenAPI document of the API, served by the app it describes."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
from flask import Response, current_app, jsonify

from web.api.routes import Routes
from web.auth import PUBLIC

OPENAPI_VERSION = "3.1.0"
API_VERSION = "1"
DESCRIPTION = """Submit a task, follow it to its end, and stop it.

Every request carries `Authorization: Bearer <token>`; make a token with `taskflow token create`. A token has a role:
`viewer` reads, `operator` also submits, stops and drains, `admin` also orders and destroys nodes and has the tokens and the
audit trail of its owner; each operation says the least role that it needs (`x-needed-role`), and a lesser one is answered
403 `role_too_low`. A browser that is signed in sends its cookie instead, and in the header `X-CSRF-Token` what its page was
given, when the request writes. Bodies are JSON, one
MiB at most; an unknown field is refused. Every error has one shape, `ErrorBody`, whose `request_id` is also in the
header `X-Request-Id` and in the log. A body or query that does not fit answers 422; one that fits but can't be done
answers 400. Callbacks answer 400 for both, because their senders stop at that status. 429 and 503 come with
`Retry-After`, and nothing was done: 429 when this token asks too often or its owner has too many tasks or runs that have
not ended, 503 when a store is not usable or the installation takes no more of them.
"""
_TOKENS = {
    "api": "a user's token; acts for its owner",
    "node": "the callback token of one node; its agent signs with it instead (`Authorization: Signed ...`)",
    "bootstrap": "came with the user data of one node's server; fetches its order, once",
    "workspace": "the callback token of one workspace; its agent signs with it instead",
    "metrics": "the token of the metrics: the setting `TASKFLOW_METRICS_TOKEN`, or what `taskflow metrics --token` prints",
    "run": "the callback token of one signal of one run; the password of HTTP Basic is as good",
}

routes = Routes("document", "This document")


class DocumentSchema(ma.Schema):
    """An OpenAPI document."""

    class Meta:
        unknown = ma.INCLUDE

    openapi = ma.fields.String(required=True, metadata={"description": "the version of the form it has"})


@routes.add("GET", "/api/openapi.json", guard=PUBLIC, answers={200: DocumentSchema})
def get_document() -> Response:
    """Read this document."""
    return jsonify(current_app.extensions["taskflow.document"])


def spec_options() -> dict[str, Any]:
    """How the document begins."""
    return {
        "title": "taskflow",
        "version": API_VERSION,
        "openapi_version": OPENAPI_VERSION,
        "info": {"description": DESCRIPTION},
    }


def describe_tokens(spec: Any) -> None:
    """Add the kinds of tokens to ``spec``."""
    for name, said in _TOKENS.items():
        spec.components.security_scheme(name, {"type": "http", "scheme": "bearer", "description": said})
