"""The wire format: what must be there, what may be missing, and which bad input is refused by name."""

from __future__ import annotations

import re
from typing import Any

import pytest
from marshmallow import Schema, ValidationError
from werkzeug.routing import Map, Rule

from taskflow import protocol

WHOLE: dict[type[Schema], dict[str, Any]] = {
    protocol.ErrorSchema: {"code": "clone_failed", "message": "fatal: repository not found"},
    protocol.WorkspaceCreateSchema: {
        "fence": 3,
        "task_id": "task-1",
        "run_number": 1,
        "repository": "file:///srv/repo",
        "output_branch": "taskflow/task-1-1",
        "provision_timeout_s": 60.0,
        "callback_token": "t",
    },
    protocol.WorkspaceStateSchema: {"workspace_id": "ws-1", "status": "ready"},
    protocol.SessionStartSchema: {
        "fence": 4,
        "command": ["true"],
        "time_limit_s": 10.0,
        "log_limit_bytes": 1000,
        "commit_message": "done",
        "push": True,
    },
    protocol.SessionOutcomeSchema: {"outcome": "exited"},
    protocol.SessionStateSchema: {"session_id": "session-1", "status": "running"},
    protocol.WorkspaceOutcomeSchema: {"status": "ready"},
    protocol.LogChunkSchema: {"number": 1, "data": "aGk="},
    protocol.SessionProgressSchema: {"session_id": "session-1", "workspace_id": "ws-1", "status": "running"},
    protocol.AgentLogSchema: {"log": "what it logged\n"},
    protocol.BootstrapSchema: {"protocol_version": protocol.PROTOCOL_VERSION, "claim": "0123456789abcdef"},
    protocol.NodeOrderSchema: {
        "node_id": "node-1",
        "slots": 4,
        "callback_token": "t",
        "agent_token": "u",
        "heartbeat_interval_s": 10.0,
    },
    protocol.LimitsSchema: {},
    protocol.CallbackTokenSchema: {"token": "t", "generation": 1},
    protocol.TlsSchema: {"certificate": "c", "private_key": "k"},
    protocol.HeartbeatAnswerSchema: {"status": "active", "time": 1.0},
    protocol.HeartbeatSchema: {
        "protocol_version": protocol.PROTOCOL_VERSION,
        "agent_version": "0.1.0",
        "boot_id": "b",
        "address": "http://127.0.0.1:1",
        "ready": True,
    },
}
ROUTES = {
    name: value
    for name, value in vars(protocol).items()
    if isinstance(value, str) and name.startswith(("AGENT_", "CALLBACK_"))
}


def _fields(error: ValidationError) -> set[str]:
    """The fields an error is about."""
    assert isinstance(error.messages, dict)
    return set(error.messages)


def test_every_schema_is_covered() -> None:
    """No schema of the protocol is missing from these tests."""
    schemas = {
        value
        for name, value in vars(protocol).items()
        if isinstance(value, type) and issubclass(value, Schema) and name.endswith("Schema") and value is not Schema
    }  # fmt: skip
    assert schemas == set(WHOLE)


@pytest.mark.parametrize("schema", WHOLE, ids=lambda schema: schema.__name__)
def test_required_fields_alone_are_enough(schema: type[Schema]) -> None:
    """The required fields load as they are; the optional ones get their defaults."""
    loaded = protocol.load(schema, WHOLE[schema])
    assert loaded.items() >= WHOLE[schema].items()
    assert set(loaded) == set(schema().fields)


@pytest.mark.parametrize("schema", WHOLE, ids=lambda schema: schema.__name__)
def test_each_missing_required_field_is_named(schema: type[Schema]) -> None:
    """Leaving out any one required field is refused and names exactly that field."""
    for field in WHOLE[schema]:
        rest = {name: value for name, value in WHOLE[schema].items() if name != field}
        with pytest.raises(ValidationError) as caught:
            protocol.load(schema, rest)
        assert _fields(caught.value) == {field}


@pytest.mark.parametrize("schema", WHOLE, ids=lambda schema: schema.__name__)
def test_unknown_fields_are_ignored(schema: type[Schema]) -> None:
    """A newer peer may say more than this one knows."""
    assert "later" not in protocol.load(schema, {**WHOLE[schema], "later": {"a": 1}})


@pytest.mark.parametrize(
    ("schema", "field", "value"),
    [
        (protocol.WorkspaceCreateSchema, "fence", "high"),
        (protocol.WorkspaceCreateSchema, "setup_command", "make install"),
        (protocol.WorkspaceCreateSchema, "env", {"A": 1}),
        (protocol.WorkspaceStateSchema, "status", "asleep"),
        (protocol.SessionStartSchema, "command", []),
        (protocol.SessionStartSchema, "command", "rm -rf x"),
        (protocol.SessionStartSchema, "secrets", ["A=b"]),
        (protocol.SessionOutcomeSchema, "outcome", "fine"),
        (protocol.SessionOutcomeSchema, "error", {"code": "x"}),
        (protocol.SessionStateSchema, "status", "done"),
        (protocol.WorkspaceOutcomeSchema, "status", "creating"),
        (protocol.LogChunkSchema, "number", 0),
        (protocol.SessionProgressSchema, "status", "done"),
        (protocol.HeartbeatSchema, "ready", "perhaps"),
        (protocol.HeartbeatSchema, "sessions", [{"session_id": "s"}]),
    ],
)
def test_bad_value_is_refused_by_field(schema: type[Schema], field: str, value: object) -> None:
    """A wrong value is refused, and the message is under the field's name."""
    with pytest.raises(ValidationError) as caught:
        protocol.load(schema, {**WHOLE[schema], field: value})
    assert _fields(caught.value) == {field}


@pytest.mark.parametrize("status", protocol.SESSION_OUTCOMES)
def test_every_outcome_word_is_accepted(status: str) -> None:
    """The words of the protocol pass its own schema."""
    assert protocol.load(protocol.SessionOutcomeSchema, {"outcome": status})["outcome"] == status


@pytest.mark.parametrize("template", ROUTES.values(), ids=ROUTES)
def test_a_filled_in_route_matches_its_rule(template: str) -> None:
    """The path one side builds is the path the other side listens on, and the ids come back as they went in."""
    ids = {name: f"{name}-01j" for name in re.findall(r"{(\w+)}", template)}
    urls = Map([Rule(protocol.flask_rule(template), endpoint="it")]).bind("node")
    assert urls.match(protocol.route(template, **ids)) == ("it", ids)


def test_routes_are_distinct() -> None:
    """No two routes of the protocol are the same path."""
    assert len(set(ROUTES.values())) == len(ROUTES)


def test_a_route_without_its_ids_is_refused() -> None:
    """A forgotten id is an error at once, not a request to a wrong path."""
    with pytest.raises(KeyError):
        protocol.route(protocol.AGENT_SESSION, workspace_id="ws-1")
