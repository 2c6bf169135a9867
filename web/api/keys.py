"""The header that lets a client repeat a request that makes something."""

from __future__ import annotations

from typing import Any

from flask import request
from marshmallow import ValidationError

from web.api import schemas, texts
from web.errors import InvalidRequest


def idempotency_key() -> str | None:
    """The key of this request. Raises ``InvalidRequest`` when it can be none."""
    try:
        return schemas.check_idempotency_key(request.headers.get(texts.IDEMPOTENCY_HEADER))
    except ValidationError as error:
        raise InvalidRequest("the request does not fit", fields=error.messages_dict) from error


def idempotency_parameter(thing: str) -> dict[str, Any]:
    """The header in the document of a route that makes a ``thing``."""
    return {
        "in": "header",
        "name": texts.IDEMPOTENCY_HEADER,
        "description": f"a text of yours; a request that repeats it answers with the {thing} that the first one made,"
        " and the header `Idempotent-Replayed: true`",
        "schema": {"type": "string", "minLength": 1, "maxLength": 200},
    }
