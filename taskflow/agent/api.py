"""The agent's HTTP routes, as ``taskflow.protocol`` names them."""

from __future__ import annotations

import logging
import re
import sqlite3
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, g, jsonify, request
from marshmallow import Schema, ValidationError
from werkzeug.exceptions import HTTPException

from taskflow import protocol, signing
from taskflow.agent.clock import PlaneClock
from taskflow.agent.places import Order
from taskflow.agent.problems import Problem
from taskflow.agent.server import BODY_BYTES_MAX

if TYPE_CHECKING:
    from taskflow.agent.node import Node

log = logging.getLogger(__name__)

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # ids become directory names
_KEY_ID = "agent"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def _check_signed(order: Order, clock: PlaneClock) -> None:
    """Only who has the node's agent token is answered, and only to this request, made a moment ago."""
    if request.path == protocol.AGENT_HEALTH:
        return
    now = clock.now()
    try:
        claim = signing.read(request.headers.get("Authorization"))
        if claim.key_id != _KEY_ID:
            raise signing.SignatureRefused("wrong", "the request is signed with another key")
        target = str(request.environ["REQUEST_URI"])
        signing.check(
            claim, order.agent_token, method=request.method, target=target, now=now, max_age_s=order.signature_age_s
        )
        signing.check_body(claim, request.get_data())
    except signing.SignatureRefused as refused:
        if refused.code == "clock":
            raise Problem(401, "clock", f"{refused} by this node's time", detail={"time": now}) from None
        raise Problem(401, "unauthorized", f"{refused}; the node's agent token is needed") from None


def _note_trace(response: Response) -> Response:
    """Say in the log what was done in which trace of its caller's, and repeat it to who asked."""
    traceparent = request.headers.get("traceparent", "")  # as the W3C has it
    if g.get("known") and _TRACEPARENT.fullmatch(traceparent):
        log.info("%s %s %s trace=%s", request.method, request.path, response.status_code, traceparent.split("-")[1])
        response.headers["traceparent"] = traceparent
    return response


def _check_ids() -> None:
    for name, value in (request.view_args or {}).items():
        if not _ID.fullmatch(str(value)):
            raise Problem(422, "invalid", "not an id", fields={name: ["letters, digits, '.', '_' and '-' only"]})


def _body(schema: type[Schema]) -> dict[str, Any]:
    data = request.get_json(silent=True)
    if not isinstance(data, dict):
        raise Problem(400, "invalid", "the body is not a JSON object")
    return protocol.load(schema, data)


def _fence() -> int:
    try:
        return int(request.args["fence"])
    except (KeyError, ValueError) as error:
        raise Problem(400, "invalid", "a whole number is needed", fields={"fence": ["missing or wrong"]}) from error


def create_app(node: Node, order: Order, clock: PlaneClock) -> Flask:
    """The WSGI application. Every route but the health check needs a signature with the node's agent token."""
    app = Flask("taskflow.agent")
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES_MAX

    @app.before_request
    def check() -> None:
        _check_signed(order, clock)
        g.known = request.path != protocol.AGENT_HEALTH
        _check_ids()

    app.after_request(_note_trace)
    _add_errors(app)
    _add_routes(app, node)
    return app


def _add_errors(app: Flask) -> None:
    def answer(status: int, body: dict[str, Any]) -> tuple[Response, int]:
        return jsonify(body), status

    @app.errorhandler(Problem)
    def on_problem(problem: Problem) -> tuple[Response, int]:
        return answer(problem.status, problem.as_dict())

    @app.errorhandler(ValidationError)
    def on_invalid(error: ValidationError) -> tuple[Response, int]:
        fields = error.messages if isinstance(error.messages, dict) else {"_": error.messages}
        return answer(422, {"code": "invalid", "message": "the body is not valid", "fields": fields})

    @app.errorhandler(HTTPException)
    def on_http(error: HTTPException) -> tuple[Response, int]:
        code = error.name.lower().replace(" ", "_")
        return answer(error.code or 500, {"code": code, "message": error.description or error.name})

    @app.errorhandler(sqlite3.Error)
    @app.errorhandler(OSError)
    def on_unwritable(error: Exception) -> tuple[Response, int]:
        # A full disk, mostly. Nothing was begun that a repeat would not find: the caller tries again.
        log.error("%s %s", request.method, request.path, exc_info=error)
        said = error.strerror if isinstance(error, OSError) else str(error)
        return answer(503, {"code": "store_unusable", "message": f"the node can't keep what it was told: {said}"})

    @app.errorhandler(Exception)
    def on_other(error: Exception) -> tuple[Response, int]:
        log.error("%s %s", request.method, request.path, exc_info=error)
        return answer(500, {"code": "internal", "message": "the agent failed; its log says why"})


def _add_routes(app: Flask, node: Node) -> None:
    rule = protocol.flask_rule

    @app.get(rule(protocol.AGENT_HEALTH))
    def health() -> Response:
        return jsonify({"status": "alive", "boot_id": node.boot_id})

    @app.get(rule(protocol.AGENT_NODE))
    def node_state() -> Response:
        return jsonify(node.beat())

    @app.get(rule(protocol.AGENT_LOG))
    def log_end() -> Response:
        return jsonify({"log": node.log_end()})

    @app.put(rule(protocol.AGENT_WORKSPACE))
    def put_workspace(workspace_id: str) -> tuple[Response, int]:
        node.dead_man.refuse_if_cut_off()
        state, status = node.workspaces.create(workspace_id, _body(protocol.WorkspaceCreateSchema))
        return jsonify(state), status

    @app.get(rule(protocol.AGENT_WORKSPACE))
    def get_workspace(workspace_id: str) -> Response:
        return jsonify(node.workspaces.state(workspace_id))

    @app.delete(rule(protocol.AGENT_WORKSPACE))
    def delete_workspace(workspace_id: str) -> Response:
        return jsonify(node.workspaces.delete(workspace_id, _fence()))

    @app.put(rule(protocol.AGENT_SESSION))
    def put_session(workspace_id: str, session_id: str) -> Response:
        node.dead_man.refuse_if_cut_off()
        payload = _body(protocol.SessionStartSchema)
        return jsonify(node.workspaces.start_session(workspace_id, session_id, payload))

    @app.get(rule(protocol.AGENT_SESSION))
    def get_session(workspace_id: str, session_id: str) -> Response:
        return jsonify(node.workspaces.session_state(workspace_id, session_id))

    @app.post(rule(protocol.AGENT_SESSION_STOP))
    def stop_session(workspace_id: str, session_id: str) -> Response:
        return jsonify(node.workspaces.stop_session(workspace_id, session_id))
