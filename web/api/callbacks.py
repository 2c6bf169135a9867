"""What nodes and workspaces report. Paths and messages are those of ``taskflow.protocol``."""

from __future__ import annotations

from typing import Any

from taskflow import protocol
from web.api import answers
from web.api.routes import Routes
from web.auth import BOOTSTRAP, NODE, WORKSPACE, caller
from web.door import service

node_routes = Routes("node_callbacks", "Reports of node agents, each with the token of its node")
workspace_routes = Routes("workspace_callbacks", "Reports of workspaces, each with the token of its workspace")

_UNKNOWN = "unknown; the sender stops"
_OVER = "it has ended; the sender stops"
_OTHERWISE = "it was answered otherwise before; `detail.stored` holds what counts"


@node_routes.add(
    "POST",
    protocol.flask_rule(protocol.CALLBACK_NODE_BOOTSTRAP),
    guard=BOOTSTRAP,
    body=protocol.BootstrapSchema,
    answers={200: protocol.NodeOrderSchema},
    refusals={403: "another server has it (`bootstrap_used`)", 404: _UNKNOWN, 410: _OVER},
)
def fetch_node_order(payload: dict[str, Any], node_id: str) -> dict[str, Any]:
    """Fetch what a new server's agent has to know. The first claim has it; the same claim again gets it again."""
    return service().callbacks.node_bootstrap(caller(), node_id, payload)


@node_routes.add(
    "POST",
    protocol.flask_rule(protocol.CALLBACK_NODE_BOOT),
    guard=BOOTSTRAP,
    answers={200: answers.BootStageSchema},
    refusals={404: "no such stage, or no such node", 410: _OVER},
)
def report_boot_stage(node_id: str, stage: str) -> dict[str, Any]:
    """Report how far a new server's first boot is. It never goes back; the stage that counts is answered."""
    return service().callbacks.node_boot_stage(caller(), node_id, stage)


@node_routes.add(
    "POST",
    protocol.flask_rule(protocol.CALLBACK_NODE_READY),
    guard=NODE,
    body=protocol.HeartbeatSchema,
    answers={200: protocol.HeartbeatAnswerSchema},
    refusals={404: _UNKNOWN, 410: _OVER},
)
def report_node_ready(beat: dict[str, Any], node_id: str) -> dict[str, Any]:
    """Report that a node's agent is ready. Each heartbeat says it again."""
    return service().callbacks.node_heartbeat(caller(), node_id, beat)


@node_routes.add(
    "POST",
    protocol.flask_rule(protocol.CALLBACK_NODE_HEARTBEAT),
    guard=NODE,
    body=protocol.HeartbeatSchema,
    answers={200: protocol.HeartbeatAnswerSchema},
    refusals={404: _UNKNOWN, 410: _OVER},
)
def report_node_heartbeat(beat: dict[str, Any], node_id: str) -> dict[str, Any]:
    """Report a node's load and what runs on it. The answer says which tokens to sign with from now on."""
    return service().callbacks.node_heartbeat(caller(), node_id, beat)


@workspace_routes.add(
    "POST",
    protocol.flask_rule(protocol.CALLBACK_WORKSPACE_OUTCOME),
    guard=WORKSPACE,
    body=protocol.WorkspaceOutcomeSchema,
    answers={200: answers.RecordedSchema},
    refusals={404: _UNKNOWN, 409: _OTHERWISE, 410: _OVER},
)
def report_workspace_outcome(outcome: dict[str, Any], workspace_id: str) -> dict[str, Any]:
    """Report that a workspace is ready, or why not."""
    return service().callbacks.workspace_outcome(caller(), workspace_id, outcome)


@workspace_routes.add(
    "POST",
    protocol.flask_rule(protocol.CALLBACK_SESSION_LOGS),
    guard=WORKSPACE,
    body=protocol.LogChunkSchema,
    answers={200: answers.NextChunkSchema},
    refusals={400: "the log is at its limit (`log_limit`), or the chunk does not fit", 404: _UNKNOWN},
)
def append_session_log(chunk: dict[str, Any], workspace_id: str, session_id: str) -> dict[str, Any]:
    """Deliver the next piece of a session's output."""
    return service().callbacks.session_logs(caller(), workspace_id, session_id, chunk)


@workspace_routes.add(
    "POST",
    protocol.flask_rule(protocol.CALLBACK_SESSION_OUTCOME),
    guard=WORKSPACE,
    body=protocol.SessionOutcomeSchema,
    answers={200: answers.RecordedSchema},
    refusals={404: _UNKNOWN, 409: _OTHERWISE, 410: _OVER},
)
def report_session_outcome(outcome: dict[str, Any], workspace_id: str, session_id: str) -> dict[str, Any]:
    """Report how a session ended."""
    return service().callbacks.session_outcome(caller(), workspace_id, session_id, outcome)
