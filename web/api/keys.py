"""The header that lets a client repeat a request that changes something."""

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


#: Of an answer to a repeated request: nothing was done for it.
REPLAYED = {"Idempotent-Replayed": "true"}


def idempotency_parameter(thing: str) -> dict[str, Any]:
    """The header in the document of a route that makes a ``thing``."""
    return _parameter(
        f"a text of yours; a request that repeats it answers with the {thing} that the first one made, and the header"
        " `Idempotent-Replayed: true`"
    )


def _parameter(description: str) -> dict[str, Any]:
    return {
        "in": "header",
        "name": texts.IDEMPOTENCY_HEADER,
        "description": description,
        "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": r"^[!-~]+$"},
    }


#: The same where a request is about a thing that is there already.
ONCE = _parameter(
    "a text of yours; a request that repeats it is answered with the task as it is, nothing more is done, and the header"
    " is `Idempotent-Replayed: true`"
)
#: Where a message is sent.
MESSAGE = _parameter(
    "the message's own id, a text of yours: the same again changes nothing (`recorded` is false), and several of one name"
    " are told apart by it"
)
#: And where asking twice is the same as asking once anyway.
WELCOME = _parameter("a text of yours; a repeat changes nothing, with it or without it")
#: And where asking twice soon is.
SOON = _parameter("a text of yours; a repeat within ten seconds asks for nothing more, with it or without it")
