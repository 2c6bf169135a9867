"""Declaring a route once: who may call it, what it takes, what it answers. The document is made from the same facts."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import flask
import marshmallow as ma
from flask_smorest import Blueprint
from webargs.flaskparser import FlaskParser, is_json_request
from werkzeug.exceptions import UnsupportedMediaType

from taskflow.errors import UsageError
from web.auth import Guard, guarded
from web.context import read_body
from web.errors import InvalidRequest
from web.streams import MIMETYPE

F = TypeVar("F", bound=Callable[..., Any])

#: Names in an answer come from the caller; a body full of wrong ones is not sent back whole.
_FIELDS_SHOWN_MAX = 50
_NAME_SHOWN_MAX = 200


class RequestParser(FlaskParser):
    """Bodies are JSON and nothing else; what is unknown is refused, in queries too, so that a typing error is seen."""

    DEFAULT_UNKNOWN_BY_LOCATION = {**FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION, "query": ma.RAISE}  # noqa: RUF012

    def _raw_load_json(self, req: flask.Request) -> Any:
        body = read_body()
        if not body:
            return ma.missing
        if not is_json_request(req):
            raise UnsupportedMediaType()
        try:
            return json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:  # also numbers and nesting beyond what the parser takes
            raise UsageError("the body is not JSON", code="not_json") from error

    def handle_error(self, error: ma.ValidationError, req: Any, schema: Any, **_kwargs: Any) -> NoReturn:
        """Raise ``InvalidRequest``; the cause is not chained, because it holds the values."""
        messages = error.messages if isinstance(error.messages, dict) else {}
        found = (pair for located in messages.values() for pair in _flat(located, ()))
        fields = {name[:_NAME_SHOWN_MAX] or "body": text for name, text in itertools.islice(found, _FIELDS_SHOWN_MAX)}
        raise InvalidRequest("the request does not fit: " + ", ".join(sorted(fields)), fields=fields) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _flat(messages: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Nested messages as dotted names. ``key`` and ``value`` are marshmallow's words for the two sides of a mapping."""
    if not isinstance(messages, Mapping):
        texts = messages if isinstance(messages, (list, tuple)) else [messages]
        yield ".".join(path), " ".join(str(text) for text in texts)
        return
    for key, nested in messages.items():
        side = key in ("key", "value") and len(path) > 1
        schema_level = key == "_schema"
        yield from _flat(nested, path if side or schema_level else (*path, str(key)))


PARSER = RequestParser()


class Routes:
    """The routes of one tag of the document, as a blueprint."""

    def __init__(self, name: str, description: str) -> None:
        self.blueprint: Any = Blueprint(name, __name__, description=description)
        self.blueprint.ARGUMENTS_PARSER = PARSER

    def add(
        self,
        method: str,
        rule: str,
        *,
        guard: Guard,
        answers: Mapping[int, type[ma.Schema] | Mapping[str, Any]],
        content_type: str | None = None,
        body: type[ma.Schema] | None = None,
        query: type[ma.Schema] | None = None,
        refusals: Mapping[int, str] | None = None,
        streamed: str | None = None,
        **doc: Any,
    ) -> Callable[[F], F]:
        """Register the view for ``method`` on ``rule``. It is given the loaded body or query, then the ids of the path.

        ``answers``: schema of each success status; the first is the default one, and what a view returns is dumped by
        its schema, so that nothing leaves that the document doesn't name; a mapping only describes what a view answers
        as a response of its own, of ``content_type``. ``refusals``: status -> when it comes.
        ``streamed``: what is sent to who accepts text/event-stream instead.
        """

        def decorator(view: F) -> F:
            blueprint = self.blueprint
            (status, schema), *others = answers.items()
            wrapped: Any = view
            if body is not None:
                wrapped = blueprint.arguments(body, required=_required(body))(wrapped)
            if query is not None:
                wrapped = blueprint.arguments(query, location="query")(wrapped)
            wrapped = blueprint.response(status, schema, content_type=content_type)(wrapped)
            for other, its_schema in others:
                wrapped = blueprint.alt_response(other, schema=its_schema, success=True)(wrapped)
            wrapped = blueprint.doc(**_operation(view, guard, body or query, refusals or {}, doc))(wrapped)
            if streamed is not None:
                wrapped = blueprint.doc(responses={status: _stream(streamed)})(wrapped)
            # The names of statuses are not the same in every Python; ours are in ``refusals``.
            wrapped._apidoc.get("arguments", {}).pop("responses", None)
            blueprint.route(rule, methods=[method])(guarded(guard)(wrapped))
            return view

        return decorator


def _required(body: type[ma.Schema]) -> bool:
    return any(field.required for field in body().fields.values())


def _operation(
    view: Callable[..., Any], guard: Guard, schema: object, refusals: Mapping[int, str], doc: Mapping[str, Any]
) -> dict[str, Any]:
    said = dict(refusals)
    if schema is not None:
        said.setdefault(400 if guard.callback else 422, "the input does not fit; `fields` names what is wrong")
    if guard.scope != "public":
        said |= {401: "no valid token", 403: "the token is not for this"}
    if guard.role:
        said[403] = f"not for this role: {guard.role} is the least"
    if guard.scope == "api":
        said[429] = "too many requests; `Retry-After` says when to ask again"
    security: Sequence[dict[str, list[str]]] = [] if guard.scope == "public" else [{guard.scope: []}]
    return {
        "operationId": view.__name__,
        "security": security,
        "responses": {status: _refusal(text) for status, text in sorted(said.items())},
        **({"x-needed-role": guard.role, "description": _with_role(view, guard.role)} if guard.role else {}),
        **doc,
    }


def _with_role(view: Callable[..., Any], role: str) -> str:
    """What the view says of itself after its first line, and the least role that may call it."""
    more = inspect.cleandoc(view.__doc__ or "").partition("\n")[2].strip()
    return f"{more}\n\nLeast role: {role}.".strip()


def _refusal(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": "ErrorBody"}}}


def _stream(text: str) -> dict[str, Any]:
    return {"content": {MIMETYPE: {"schema": {"type": "string", "description": text}}}}
