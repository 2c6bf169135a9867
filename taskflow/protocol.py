"""The wire format between the control plane and a node agent: routes, schemas, status words.

Both sides import this file and nothing of each other, so a route or a field can't be spelled two ways (L-82).
Times on the wire are durations or ages in seconds: the two clocks need not agree.

The rules of delivery, the same in both directions:

* every create is idempotent by the id in its path: the same content again answers the same, other content answers 409;
* a callback is sent until it is answered. 2xx: accepted (repeats included). 409, 410, 401, 403, 404, 400, 413: final,
  stop sending; an outcome that was refused for its form (400, 413) is followed once by a short one that says so, with
  an error of phase ``report``. Anything else (5xx, 429, no answer): send again later, the same bytes. So is one of the
  others that does not have the form of the control plane's errors: something on the way answered;
* ``fence`` grows with each write of the run. The agent remembers the highest fence of a workspace and refuses lower
  ones with 409 code ``fenced``; it remembers deleted ids and refuses to create them again with 410 (a tombstone), so a
  worker that was paused and wakes late can't bring a deleted workspace back.
"""

from __future__ import annotations

from typing import Any

from marshmallow import EXCLUDE, Schema, fields, validate

PROTOCOL_VERSION = 2

#: The status with which an agent ends that is not to be started again: its server is being shut down.
AGENT_UNWANTED = 78
#: Where the control plane serves the agent as one file; no auth, it holds no secret.
AGENT_FILE = "/agent.pyz"

# --- routes of the node agent (called by the control plane, signed with the node's agent token) ---------------------
AGENT_HEALTH = "/health"  # no auth: alive, not ready
AGENT_NODE = "/v1/node"  # GET -> HeartbeatSchema
AGENT_LOG = "/v1/log"  # GET -> AgentLogSchema
AGENT_WORKSPACE = "/v1/workspaces/{workspace_id}"  # PUT WorkspaceCreateSchema, GET, DELETE ?fence=N
AGENT_SESSION = "/v1/workspaces/{workspace_id}/sessions/{session_id}"  # PUT SessionStartSchema, GET
AGENT_SESSION_STOP = "/v1/workspaces/{workspace_id}/sessions/{session_id}/stop"  # POST {}

# --- routes of the control plane (called by the agent) ---------------------------------------------------------------
# bearer = the node's bootstrap token, which came with the server's user data
CALLBACK_NODE_BOOTSTRAP = "/callbacks/nodes/{node_id}/bootstrap"  # POST BootstrapSchema -> NodeOrderSchema
CALLBACK_NODE_BOOT = "/callbacks/nodes/{node_id}/boot/{stage}"  # POST, no body: how far the server's first boot is
# signed with the node's callback token
CALLBACK_NODE_READY = "/callbacks/nodes/{node_id}/ready"  # POST HeartbeatSchema
CALLBACK_NODE_HEARTBEAT = "/callbacks/nodes/{node_id}/heartbeat"  # POST HeartbeatSchema
# signed with the workspace's callback token, which came with WorkspaceCreateSchema
CALLBACK_WORKSPACE_OUTCOME = "/callbacks/workspaces/{workspace_id}/outcome"  # POST WorkspaceOutcomeSchema
CALLBACK_SESSION_LOGS = "/callbacks/workspaces/{workspace_id}/sessions/{session_id}/logs"  # POST LogChunkSchema
CALLBACK_SESSION_OUTCOME = "/callbacks/workspaces/{workspace_id}/sessions/{session_id}/outcome"  # SessionOutcomeSchema

# --- status words ----------------------------------------------------------------------------------------------------
WORKSPACE_STATES = ("creating", "ready", "failed", "deleted")
SESSION_STATES = ("running", "finishing", "ended")
#: exited: the command ended by itself, see exit_code. timed_out: killed at its time limit. stopped: killed on request.
#: lost: nobody can say how it ended (the machine or its supervisor went away).
SESSION_OUTCOMES = ("exited", "timed_out", "stopped", "lost")

LOG_CHUNK_BYTES_MAX = 64 * 1024
#: What is kept of an agent's own log.
AGENT_LOG_BYTES_MAX = 8 * 1024

#: How far a server's first boot is, in this order; the last one is the agent's own.
BOOT_STAGES = ("booted", "agent_fetched", "agent_started")


#: Short texts that become columns: an over-long one is refused for good, not sent for ever.
_WORD = validate.Length(max=64)


def _says(description: str) -> dict[str, str]:
    """Of a field that is in the document of the API."""
    return {"description": description}


class _Wire(Schema):
    """Unknown fields are ignored: a newer peer may say more."""

    class Meta:
        unknown = EXCLUDE


class ErrorSchema(_Wire):
    """What failed and why: the cause's own words in ``message`` (git's, for instance)."""

    code = fields.String(required=True, metadata=_says("what failed, in a word that does not change"))
    message = fields.String(required=True, metadata=_says("the cause's own words"))
    phase = fields.String(
        load_default=None, allow_none=True, metadata=_says("clone, branch, setup, start, commit, push or report")
    )


class LimitsSchema(_Wire):
    """What all of a workspace together may use; None: nobody said. ``vcpus`` is a share, the others are walls."""

    vcpus = fields.Float(load_default=None, allow_none=True)
    memory_mb = fields.Integer(load_default=None, allow_none=True)
    processes = fields.Integer(load_default=None, allow_none=True)


class WorkspaceCreateSchema(_Wire):
    """PUT of a workspace. A repeat is compared by its content, to which the callback token does not belong."""

    fence = fields.Integer(required=True)
    task_id = fields.String(required=True)
    run_number = fields.Integer(required=True)
    repository = fields.String(required=True)  # path, file://, https://, ssh (also scp-like)
    branch = fields.String(load_default=None, allow_none=True)  # None: the origin's HEAD
    output_branch = fields.String(required=True)
    setup_command = fields.List(fields.String(), load_default=None, allow_none=True)  # argv
    env = fields.Dict(keys=fields.String(), values=fields.String(), load_default=dict)
    private_hosts = fields.Boolean(load_default=True)  # whether a repository's host may be a private address
    provision_timeout_s = fields.Float(required=True)
    limits = fields.Nested(LimitsSchema, load_default=None, allow_none=True)
    callback_token = fields.String(required=True)
    callback_generation = fields.Integer(load_default=0)  # of the token; an agent never goes back to an earlier one


class WorkspaceStateSchema(_Wire):
    """Answer to PUT, GET and DELETE of a workspace."""

    workspace_id = fields.String(required=True)
    status = fields.String(required=True, validate=validate.OneOf(WORKSPACE_STATES))
    base_commit = fields.String(load_default=None, allow_none=True, validate=_WORD)
    error = fields.Nested(ErrorSchema, load_default=None, allow_none=True)


class SessionStartSchema(_Wire):
    """PUT of a session. ``secrets`` reach the process' environment only: never argv, never disk, masked in output."""

    fence = fields.Integer(required=True)
    command = fields.List(fields.String(), required=True, validate=validate.Length(min=1))
    env = fields.Dict(keys=fields.String(), values=fields.String(), load_default=dict)
    secrets = fields.Dict(keys=fields.String(), values=fields.String(), load_default=dict)
    time_limit_s = fields.Float(required=True)
    log_limit_bytes = fields.Integer(required=True)
    commit_message = fields.String(required=True)
    push = fields.Boolean(required=True)


class AgentLogSchema(_Wire):
    """The end of what the agent logged since its start."""

    log = fields.String(required=True)


class SessionOutcomeSchema(_Wire):
    """How a session ended; the answer to the one question ``session_outcome``."""

    outcome = fields.String(
        required=True,
        validate=validate.OneOf(SESSION_OUTCOMES),
        metadata=_says("exited (by itself), timed_out, stopped (on request) or lost (nobody can say)"),
    )
    exit_code = fields.Integer(
        load_default=None,
        allow_none=True,
        metadata=_says("of the command that exited; negative: killed by that signal"),
    )
    commit = fields.String(
        load_default=None,
        allow_none=True,
        validate=_WORD,
        metadata=_says("null: nothing changed, or nothing could be committed"),
    )
    output_branch = fields.String(
        load_default=None, allow_none=True, metadata=_says("the branch that the work was committed to")
    )
    changed_files = fields.List(
        fields.String(), load_default=list, metadata=_says("paths that differ from where it began")
    )
    pushed = fields.Boolean(load_default=False, metadata=_says("whether the branch was pushed"))
    log_chunks = fields.Integer(load_default=0, metadata=_says("pieces of output that were sent"))
    log_truncated = fields.Boolean(load_default=False, metadata=_says("there was more output than is kept"))
    duration_s = fields.Float(load_default=None, allow_none=True, metadata=_says("seconds from its start to its end"))
    error = fields.Nested(
        ErrorSchema, load_default=None, allow_none=True, metadata=_says("why the work could not be kept or sent")
    )


class SessionStateSchema(_Wire):
    """Answer to PUT and GET of a session; ``outcome`` once it ended."""

    session_id = fields.String(required=True)
    status = fields.String(required=True, validate=validate.OneOf(SESSION_STATES))
    outcome = fields.Nested(SessionOutcomeSchema, load_default=None, allow_none=True)


class WorkspaceOutcomeSchema(_Wire):
    """The ready callback, and its opposite: the answer to the one question ``workspace_outcome``."""

    status = fields.String(
        required=True, validate=validate.OneOf(("ready", "failed")), metadata=_says("ready or failed")
    )
    base_commit = fields.String(
        load_default=None, allow_none=True, validate=_WORD, metadata=_says("what the work starts from")
    )
    error = fields.Nested(
        ErrorSchema, load_default=None, allow_none=True, metadata=_says("why it could not be prepared")
    )


class LogChunkSchema(_Wire):
    """One piece of a session's output. Numbers start at 1, have no gap, and a repeated number has the same bytes.

    The answer is ``{"next": N}``, the number the control plane wants next: the sender goes on there.
    """

    number = fields.Integer(
        required=True, validate=validate.Range(min=1), metadata=_says("its place in the output, from 1, without a gap")
    )
    data = fields.String(required=True, metadata=_says("the bytes, in base64; 64 KiB at most"))


class SessionProgressSchema(_Wire):
    """A running session as a heartbeat reports it."""

    session_id = fields.String(required=True, metadata=_says("which session"))
    workspace_id = fields.String(required=True, metadata=_says("the workspace it runs in"))
    status = fields.String(
        required=True, validate=validate.OneOf(SESSION_STATES), metadata=_says("running, finishing or ended")
    )
    output_bytes = fields.Integer(load_default=0, metadata=_says("that its command wrote so far"))
    output_age_s = fields.Float(
        load_default=None, allow_none=True, metadata=_says("seconds since it last wrote something")
    )


class BootstrapSchema(_Wire):
    """Asks for the node's order. ``claim`` is random, kept on the server's disk: the first one that asks has it alone."""

    protocol_version = fields.Integer(required=True, metadata=_says("of the agent that asks"))
    claim = fields.String(
        required=True, validate=validate.Length(min=16, max=64), metadata=_says("a random text that this server keeps")
    )


class CallbackTokenSchema(_Wire):
    """A token that requests to the control plane are signed with. ``generation`` counts its renewals."""

    token = fields.String(required=True, metadata=_says("the token; secret"))
    generation = fields.Integer(required=True, metadata=_says("how often it was renewed"))


class TlsSchema(_Wire):
    """What an agent shows to who connects: both are PEM texts, the certificate with its chain."""

    certificate = fields.String(required=True, metadata=_says("with its chain, as PEM"))
    private_key = fields.String(required=True, metadata=_says("as PEM; secret"))


class NodeOrderSchema(_Wire):
    """What a node agent has to know of itself. Its tokens are secret. What is None or false is left to local nodes."""

    node_id = fields.String(required=True, metadata=_says("the node that it is"))
    slots = fields.Integer(required=True, metadata=_says("workspaces it holds at once"))
    callback_token = fields.String(required=True, metadata=_says("signs what it sends; secret"))
    callback_generation = fields.Integer(load_default=0, metadata=_says("how often that token was renewed"))
    agent_token = fields.String(required=True, metadata=_says("signs what it is sent; secret"))
    heartbeat_interval_s = fields.Float(required=True, metadata=_says("seconds between two reports"))
    listen_host = fields.String(load_default="127.0.0.1", metadata=_says("the address that its agent listens on"))
    listen_port = fields.Integer(load_default=0, metadata=_says("0: the earlier one, or any free one"))
    advertise_host = fields.String(
        load_default=None,
        allow_none=True,
        metadata=_says("where it is reached; null: from where it reaches the control plane"),
    )
    tls = fields.Nested(
        TlsSchema, load_default=None, allow_none=True, metadata=_says("what it shows to who connects; null: plain HTTP")
    )
    signature_age_s = fields.Float(load_default=60.0, metadata=_says("seconds for which a signature is good"))
    dead_man_s = fields.Float(
        load_default=None,
        allow_none=True,
        metadata=_says("seconds without the control plane after which it ends its sessions; null: never"),
    )
    power_off = fields.Boolean(load_default=False, metadata=_says("after that time the machine itself is shut down"))
    isolate = fields.Boolean(
        load_default=False, metadata=_says("each workspace is a user of its own, which only root can do")
    )
    container_image = fields.String(
        load_default=None, allow_none=True, metadata=_says("what commands run in; null: the machine")
    )


class HeartbeatAnswerSchema(_Wire):
    """What a heartbeat is answered. Tokens are there when they are to be used from now on; the old ones stay good for a
    while. ``time`` is the control plane's clock, which signatures go by."""

    status = fields.String(required=True, metadata=_says("what the control plane takes the node for"))
    time = fields.Float(
        required=True, metadata=_says("the control plane's clock, which signatures go by; seconds since the epoch")
    )
    callback_token = fields.Nested(
        CallbackTokenSchema,
        load_default=None,
        allow_none=True,
        metadata=_says("of the node, to be used from now on; null: as before"),
    )
    workspace_tokens = fields.Dict(
        keys=fields.String(),
        values=fields.Nested(CallbackTokenSchema),
        load_default=dict,
        metadata=_says("the same by workspace"),
    )


class HeartbeatSchema(_Wire):
    """Sent every ``heartbeat_interval_s``; says again that the node is ready, so a lost ready callback costs a beat."""

    protocol_version = fields.Integer(required=True, metadata=_says("of the agent"))
    agent_version = fields.String(required=True, validate=_WORD, metadata=_says("the release of the agent"))
    boot_id = fields.String(required=True, validate=_WORD, metadata=_says("random, new with each start of the agent"))
    address = fields.String(required=True, validate=validate.Length(max=500), metadata=_says("where the agent answers"))
    ready = fields.Boolean(required=True, metadata=_says("whether it takes work"))
    cores = fields.Integer(load_default=None, allow_none=True, metadata=_says("of the machine"))
    load1 = fields.Float(
        load_default=None, allow_none=True, metadata=_says("processes that wanted a core, as a mean of a minute")
    )
    memory_percent = fields.Float(load_default=None, allow_none=True, metadata=_says("in use"))
    disk_percent = fields.Float(load_default=None, allow_none=True, metadata=_says("in use"))
    workspaces = fields.List(fields.String(), load_default=list, metadata=_says("ids of those that are on it"))
    sessions = fields.List(
        fields.Nested(SessionProgressSchema),
        load_default=None,
        allow_none=True,
        metadata=_says("those that have not ended; null: it says nothing of them"),
    )


def route(template: str, **ids: str) -> str:
    """A path of this file with its ids filled in."""
    return template.format(**ids)


def flask_rule(template: str) -> str:
    """The same path as a Flask URL rule."""
    return template.replace("{", "<").replace("}", ">")


def load(schema: type[Schema], data: Any) -> dict[str, Any]:
    """``data`` checked by ``schema``. Raises ``marshmallow.ValidationError`` with the fields' messages."""
    loaded: dict[str, Any] = schema().load(data)
    return loaded
