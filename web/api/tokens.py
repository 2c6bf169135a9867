"""Tokens, for an admin of the owner; who one is, and a link to sign a browser in, for everybody."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from taskflow.service.accounts import ROLES
from taskflow.service.tokens import EXPIRES_MAX_S
from web import audit
from web.api import queries, schemas, texts
from web.api.keys import WELCOME, idempotency_key
from web.api.routes import Routes
from web.auth import API, API_ADMIN, caller
from web.door import service

routes = Routes("tokens", "Who may ask, and what")

_ROLE = (
    "viewer reads; operator also submits, stops and drains; admin also orders and destroys nodes, and has the tokens"
)


class TokenSpecSchema(Schema):
    """A token to make."""

    name = fields.String(
        required=True, validate=[validate.Length(1, 200), texts.plain], metadata={"description": "what it is for"}
    )
    role = fields.String(required=True, validate=validate.OneOf(ROLES), metadata={"description": _ROLE})
    expires_s = schemas.Seconds(
        most=EXPIRES_MAX_S,
        load_default=None,
        allow_none=True,
        metadata={"description": "how long it is good; null: until it is revoked"},
    )


def _time(description: str) -> fields.String:
    return fields.String(allow_none=True, metadata={"format": "date-time", "description": description})


class TokenSchema(Schema):
    """A token, without the token."""

    id = fields.String(metadata={"description": "its id"})
    name = fields.String(metadata={"description": "what it is for"})
    role = fields.String(metadata={"description": _ROLE})
    created_at = _time("when it was made")
    expires_at = _time("null: never")
    revoked_at = _time("null: it was not")
    last_used_at = _time("to the minute; null: never")


class TokenPageSchema(Schema):
    """A page of tokens, the oldest first."""

    tokens = fields.List(fields.Nested(TokenSchema), metadata={"description": "the tokens"})
    next_cursor = fields.String(
        allow_none=True, metadata={"description": "cursor of the next page; null after the last"}
    )


class NewTokenSchema(Schema):
    """A token that was just made."""

    id = fields.String(metadata={"description": "its id"})
    token = fields.String(metadata={"description": "the token itself; it is shown this once"})
    name = fields.String(metadata={"description": "what it is for"})
    role = fields.String(metadata={"description": _ROLE})
    owner = fields.String(metadata={"description": "the name of whose things it acts on"})
    owner_id = fields.String(metadata={"description": "the id of its owner"})
    created_at = _time("when it was made")
    expires_at = _time("null: never")


class RevokedSchema(Schema):
    """A token that is good no longer."""

    id = fields.String(metadata={"description": "its id"})
    revoked = fields.Boolean(metadata={"description": "always true"})


class CallerSchema(Schema):
    """Who asks."""

    owner = fields.String(metadata={"description": "the name of whose things the token acts on"})
    owner_id = fields.String(metadata={"description": "the id of that owner"})
    token_id = fields.String(metadata={"description": "the id of the token"})
    name = fields.String(metadata={"description": "of the token"})
    role = fields.String(metadata={"description": _ROLE})
    browser_id = fields.String(allow_none=True, metadata={"description": "null: the token itself was shown"})
    expires_at = _time("when the token expires; null: never")


class SignInLinkSchema(Schema):
    """A way to sign a browser in."""

    path = fields.String(metadata={"description": "what to open on this server; good once"})
    expires_at = _time("good until then")


@routes.add("GET", "/api/whoami", guard=API, answers={200: CallerSchema})
def read_caller() -> dict[str, Any]:
    """Say who asks: owner, token and role."""
    return service().tokens.who_is(caller())


@routes.add(
    "GET",
    "/api/tokens",
    guard=API_ADMIN,
    query=queries.TokenListQuerySchema,
    answers={200: TokenPageSchema},
    refusals={400: "not a cursor of ours"},
)
def list_tokens(query: dict[str, Any]) -> dict[str, Any]:
    """List the tokens of your owner, the oldest first, those that ended as well."""
    page, cursor = service().tokens.list(caller(), limit=query["limit"], cursor=query["cursor"])
    return {"tokens": page, "next_cursor": cursor}


@routes.add(
    "POST",
    "/api/tokens",
    guard=API_ADMIN,
    body=TokenSpecSchema,
    answers={201: NewTokenSchema},
    refusals={400: "it can't be made so"},
)
def create_token(spec: dict[str, Any]) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Make a further token of your owner. The answer shows it this once."""
    made = service().tokens.create(caller(), spec["name"], spec["role"], spec["expires_s"])
    audit.note(data={"name": made["name"], "role": made["role"]})
    return made, 201, {"Location": f"/api/tokens/{made['id']}"}


@routes.add(
    "DELETE",
    "/api/tokens/<token_id>",
    guard=API_ADMIN,
    answers={200: RevokedSchema},
    parameters=[WELCOME],
    refusals={404: "no such token that is still good, or not of your owner"},
)
def revoke_token(token_id: str) -> dict[str, Any]:
    """Revoke a token, from now on and for good. Browsers that were signed in with it are signed out."""
    idempotency_key()
    service().tokens.revoke(caller(), token_id)
    return {"id": token_id, "revoked": True}


@routes.add("POST", "/api/sign-in-links", guard=API, body=schemas.NothingSchema, answers={201: SignInLinkSchema})
def create_sign_in_link(_body: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Make a link that signs one browser in with this token's rights, once and soon.

    It gives no more than the token does, so every role may ask for one.
    """
    made = service().browsers.make_link(caller())
    return {"path": f"/login?code={made['code']}", "expires_at": made["expires_at"]}, 201
