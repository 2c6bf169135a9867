"""Declaring a route once: who may call it, what it takes, what it answers. The document is made from the same facts."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import flask
import marshmallow as ma
from flask_smorest import Blueprint
from webargs.flaskparser import FlaskParser, is_json_request
from werkzeug.exceptions import UnsupportedMediaType

from taskflow.errors import UsageError
from taskflow.service.inputs import NAME_SHOWN_MAX, wrong_fields
from web.auth import Guard, guarded
from web.context import read_body
from web.errors import InvalidRequest
from web.streams import MIMETYPE

F = TypeVar("F", bound=Callable[..., Any])

#: What the parts of a path name.
_IDS = {
    "task_id": "the id of a task",
    "node_id": "the id of a node",
    "workspace_id": "the id of a workspace",
    "session_id": "the id of a session",
    "stage": "booted, agent_fetched or agent_started",
    "token_id": "the id of a token",
    "run_id": "the id of a run",
    "name": "the name of a signal",
}
_PART = re.compile(r"<(?:\w+:)?(\w+)>")
_RETRY_AFTER: dict[str, Any] = {
    "description": "seconds after which to ask again", "schema": {"type": "integer", "minimum": 1}
}  # fmt: skip
_ETAG: dict[str, Any] = {"description": "names this answer; weak", "schema": {"type": "string"}}
_IF_NONE_MATCH: dict[str, Any] = {
    "in": "header",
    "name": "If-None-Match",
    "description": "the `ETag` of the answer that you have: 304 and no body while it would be the same",
    "schema": {"type": "string"},
}


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
            return json.loads(body, parse_constant=_no_constant, parse_float=_finite)
        except (ValueError, RecursionError) as error:  # also numbers and nesting beyond what the parser takes
            raise _not_json(error) from error

    def handle_error(self, error: ma.ValidationError, req: Any, schema: Any, **_kwargs: Any) -> NoReturn:
        """Raise ``InvalidRequest``; the cause is not chained, because it holds the values."""
        messages = error.messages if isinstance(error.messages, dict) else {}
        fields: dict[str, str] = {}
        for located in messages.values():
            fields |= wrong_fields(located, schema=schema)
        raise InvalidRequest("the request does not fit: " + ", ".join(sorted(fields)), fields=fields) from None


def _not_json(error: Exception) -> UsageError:
    """Where the body ends to be JSON; not what stands there, which may be a secret."""
    said, place = "the body is not JSON", None
    if isinstance(error, json.JSONDecodeError):
        said, place = (
            f"{said}: line {error.lineno}, column {error.colno}",
            {"line": error.lineno, "column": error.colno},
        )
    return UsageError(said, code="not_json", advice="send one JSON object, as application/json", detail=place)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    """A number that JSON can hold again: beyond the largest one Python reads infinity."""
    number = float(text)
    return number if math.isfinite(number) else _no_constant(text[:NAME_SHOWN_MAX])


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
        parameters: Sequence[Mapping[str, Any]] = (),
    ) -> Callable[[F], F]:
        """Register the view for ``method`` on ``rule``. It is given the loaded body or query, then the ids of the path.

        ``answers``: schema of each success status; the first is the default one, and what a view returns is dumped by
        its schema, so that nothing leaves that the document doesn't name; a mapping only describes what a view answers
        as a response of its own, of ``content_type``. ``refusals``: status -> when it comes.
        ``streamed``: what is sent to who accepts text/event-stream instead. ``parameters``: headers that it knows.
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
            wrapped = blueprint.doc(**_operation(view, guard, body or query, refusals or {}))(wrapped)
            headers = list(parameters)
            if streamed is not None:
                wrapped = blueprint.doc(responses={status: _stream(streamed)})(wrapped)
            if method == "GET" and guard.scope == "api":
                wrapped = blueprint.doc(responses=_conditional(status))(wrapped)
                headers.append(_IF_NONE_MATCH)
            taken = wrapped._apidoc.setdefault("arguments", {})
            # The names of statuses are not the same in every Python; ours are in ``refusals``.
            taken.pop("responses", None)
            taken["parameters"] = [*taken.get("parameters", ()), *headers]
            blueprint.route(rule, methods=[method], parameters=_in_path(rule))(guarded(guard)(wrapped))
            return view

        return decorator


def _in_path(rule: str) -> list[dict[str, Any]]:
    named = set(_PART.findall(rule))
    return [{"in": "path", "name": name, "description": text} for name, text in _IDS.items() if name in named]


def _required(body: type[ma.Schema]) -> bool:
    return any(field.required for field in body().fields.values())


def _operation(view: Callable[..., Any], guard: Guard, schema: object, refusals: Mapping[int, str]) -> dict[str, Any]:
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
        "responses": {status: _refusal(status, text) for status, text in sorted(said.items())},
        **({"x-needed-role": guard.role, "description": _with_role(view, guard.role)} if guard.role else {}),
    }


def _with_role(view: Callable[..., Any], role: str) -> str:
    """What the view says of itself after its first line, and the least role that may call it."""
    more = inspect.cleandoc(view.__doc__ or "").partition("\n")[2].strip()
    return f"{more}\n\nLeast role: {role}.".strip()


def _refusal(status: int, text: str) -> dict[str, Any]:
    said: dict[str, Any] = {"description": text, "content": {"application/json": {"schema": "ErrorBody"}}}
    return {**said, "headers": {"Retry-After": _RETRY_AFTER}} if status in (429, 503) else said


def _conditional(status: int) -> dict[int, Any]:
    """What is read has a tag, and is not sent again to who has it."""
    return {
        status: {"headers": {"ETag": _ETAG}},
        304: {"description": "it is what the `ETag` says that you have", "headers": {"ETag": _ETAG}},
    }


def _stream(text: str) -> dict[str, Any]:
    return {"content": {MIMETYPE: {"schema": {"type": "string", "description": text}}}}
