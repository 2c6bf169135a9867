"""The audit trail, for an admin of the owner."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from web.api.queries import PageQuerySchema
from web.api.routes import Routes
from web.auth import API_ADMIN, caller
from web.door import service

routes = Routes("audit", "Who asked for which change, and what came of it")


class AuditLineSchema(Schema):
    """One request that writes, sign-in, or change of a token."""

    at = fields.String(metadata={"format": "date-time", "description": "when"})
    actor = fields.String(metadata={"description": "who: the name of the token, as events have it"})
    token_id = fields.String(allow_none=True, metadata={"description": "the token that was shown, or signed in with"})
    action = fields.String(metadata={"description": "the `operationId` of this document, `sign_in` or `sign_out`"})
    subject_kind = fields.String(allow_none=True, metadata={"description": "task, node, run or token"})
    subject_id = fields.String(allow_none=True, metadata={"description": "its id"})
    outcome = fields.String(
        validate=validate.OneOf(("done", "refused", "failed")),
        metadata={"description": "done; refused: they may not; failed: it could not be done"},
    )
    request_id = fields.String(allow_none=True, metadata={"description": "names the request in the log"})
    data = fields.Dict(
        metadata={
            "description": "facts: the status that was answered, of several tasks those it was done to; never a body"
        }
    )


class AuditPageSchema(Schema):
    """A page of the trail, newest first."""

    lines = fields.List(fields.Nested(AuditLineSchema), metadata={"description": "the lines"})
    next_cursor = fields.String(
        allow_none=True, metadata={"description": "cursor of the next page; null after the last"}
    )


@routes.add(
    "GET",
    "/api/audit",
    guard=API_ADMIN,
    query=PageQuerySchema,
    answers={200: AuditPageSchema},
    refusals={400: "not a cursor of ours"},
)
def list_audit(query: dict[str, Any]) -> dict[str, Any]:
    """List who asked your owner's things for which change, and what came of it, newest first."""
    lines, cursor = service().audit.page(caller(), limit=query["limit"], cursor=query["cursor"])
    return {"lines": lines, "next_cursor": cursor}
