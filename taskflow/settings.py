"""Every setting, in one table: name, environment variable, default, unit, help.

The environment variable is ``TASKFLOW_`` plus the name in capitals. A wrong value is refused at start with the
variable's name. ``check_ladder`` asserts that inner timeouts are shorter than outer ones (L-2). ``docs/reference/
settings.md`` is made from this table, and a test fails when the two disagree.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import urlsplit

import platformdirs

from taskflow.errors import UsageError

ENV_PREFIX = "TASKFLOW_"
#: What the stack set for its processes that nobody had set for it: names of variables, separated by commas.
SET_BY_STACK = "TASKFLOW_SET_BY_STACK"
#: Inner limits with the outer ones that they must be shorter than.
LADDER = (
    ("ring_grace_s", "lease_s"),
    ("lease_s", "alarm_overdue_s"),
    ("ring_grace_s", "near_window_s"),
    ("heartbeat_interval_s", "heartbeat_stale_s"),
    ("heartbeat_stale_s", "dead_man_s"),
    ("dead_man_s", "node_lost_s"),
    ("agent_request_timeout_s", "signature_age_s"),
    ("agent_request_timeout_s", "dispatch_timeout_s"),
    ("provider_timeout_s", "provider_settle_s"),
    ("lease_s", "provider_settle_s"),
    ("provider_settle_s", "provision_timeout_s"),
    ("workspace_bootstrap_s", "workspace_ready_timeout_s"),
    ("agent_ready_timeout_s", "queued_stuck_s"),
    ("provision_timeout_s", "queued_stuck_s"),
    ("dispatch_timeout_s", "delegated_stuck_s"),
    ("workspace_ready_timeout_s", "delegated_stuck_s"),
    ("execution_timeout_s", "execution_ceiling_s"),
    ("execution_ceiling_s", "callback_token_s"),
    ("browser_idle_s", "browser_session_s"),
)
#: By how much the outer one has to be longer: seconds, or a setting's. An agent that is cut off notices within a second,
#: and gives sessions five between SIGTERM and SIGKILL: nowhere else may their task begin again before that is over. A
#: node is unreachable before it may be dead. A call that sells begins in the first half of the time to settle, and has
#: to end within it.
MARGINS: dict[tuple[str, str], float | str] = {
    ("dead_man_s", "node_lost_s"): 10.0,
    ("heartbeat_interval_s", "heartbeat_stale_s"): "heartbeat_grace_s",
    ("provider_timeout_s", "provider_settle_s"): "provider_timeout_s",
}
#: Counts of what nothing works without.
_NEEDED = frozenset({"web_processes", "worker_concurrency", "shards"})
_PORT_MAX = 65_535


def _setting(default: Any, unit: str, help: str, *, secret: bool = False) -> Any:
    return field(default=default, metadata={"unit": unit, "help": help, "secret": secret})


@dataclass(frozen=True)
class Settings:
    """The settings in force. Make one with ``Settings.from_env()``; tests make one with ``dataclasses.replace``."""

    # --- places
    data_dir: str = _setting("", "path", "where everything of this installation lives; empty = a per-user directory")
    redis_url: str = _setting(
        "",
        "url",
        "Redis or Valkey for control state (redis://, rediss://, sentinel://); empty = the embedded server",
        secret=True,
    )
    broker_url: str = _setting(
        "", "url", "Celery's broker (amqp://, amqps:// or a Redis of its own); empty = that Redis too", secret=True
    )
    database_url: str = _setting("", "url", "SQLAlchemy URL; empty = SQLite in the data directory", secret=True)
    public_url: str = _setting("", "url", "where node agents reach the web process; empty = http://127.0.0.1:<port>")
    public_ca_file: str = _setting(
        "", "path", "CA certificates (PEM) by which agents of other machines trust the public URL; empty = the system's"
    )
    host: str = _setting("127.0.0.1", "address", "address the web process listens on")
    port: int = _setting(8750, "port", "port of the web process; 0 = any free one")
    web_processes: int = _setting(
        2, "count", "processes that answer HTTP; each has 16 threads or more, and uses one core at most"
    )
    flower_port: int = _setting(8751, "port", "port of the Flower dashboard; 0 = any free one")
    flower_url: str = _setting(
        "", "url", "where admins' browsers reach Flower, for links from the dashboard; empty = no link"
    )
    url: str = _setting("", "url", "server the command line talks to; empty = the stack of the data directory")
    token: str = _setting("", "token", "API token of the command line; empty = the stack's own", secret=True)
    secret_key: str = _setting(
        "", "text", "signs node and workspace tokens, encrypts task secrets; empty = a file made in the data directory",
        secret=True,
    )  # fmt: skip
    log_level: str = _setting("INFO", "level", "DEBUG, INFO, WARNING or ERROR")
    log_json: bool = _setting(False, "flag", "log lines as JSON instead of text")
    metrics: bool = _setting(True, "flag", "workers and web processes count what they do, for GET /metrics")
    metrics_token: str = _setting(
        "", "token", "bearer token of GET /metrics; empty = the installation's own (taskflow metrics --token)",
        secret=True,
    )  # fmt: skip
    tracing: bool = _setting(
        False, "flag", "send a trace of each run by OTLP (OTEL_EXPORTER_OTLP_ENDPOINT says where); needs the extra otel"
    )
    tracing_ratio: float = _setting(1.0, "part", "part of all runs that is traced, 0 to 1")

    # --- engine
    key_prefix: str = _setting("taskflow", "text", "first part of every Redis key")
    shards: int = _setting(4, "count", "shards of the alarm index; fixed for an installation")
    lease_s: float = _setting(5.0, "s", "lease of a turn; renewed every third of it")
    near_window_s: float = _setting(15.0, "s", "an alarm due within this is published at once as a Celery countdown")
    ring_grace_s: float = _setting(1.0, "s", "how late a hint may be before the pump rings again")
    pump_interval_s: float = _setting(0.25, "s", "how often each worker process looks at the alarm index")
    pump_batch: int = _setting(100, "count", "alarms one pump tick rings at most, for each shard")
    pump_queue_factor: int = _setting(
        4, "count", "the pump rings only while the queue is shorter than this x worker slots"
    )
    turn_max_steps: int = _setting(50, "count", "steps one turn may take; 1 = one Celery task per step")
    turn_max_s: float = _setting(10.0, "s", "a turn starts no further step after this")
    step_max_attempts: int = _setting(5, "count", "attempts of a step that fails transiently, unless it says otherwise")
    step_max_crashes: int = _setting(20, "count", "times a step may take its worker down before it fails")
    step_max_fires: int = _setting(100_000, "count", "alarms of one step before it is taken for a loop")
    retry_base_s: float = _setting(1.0, "s", "first backoff; doubled each attempt, full jitter")
    retry_max_s: float = _setting(60.0, "s", "longest backoff")
    result_max_bytes: int = _setting(64 * 1024, "bytes", "results one run may hold")
    inbox_max: int = _setting(1000, "count", "signals one run may hold")
    rescue_interval_s: float = _setting(5.0, "s", "how often beat runs the rescue")
    rescue_page: int = _setting(500, "count", "runs of one page of the rescue")
    newer_state_retry_s: float = _setting(30.0, "s", "how long a run of a newer version is left before the next look")

    # --- worker
    worker_concurrency: int = _setting(4, "count", "processes of one worker")

    # --- the timeout ladder
    admission_wait_s: float = _setting(7200.0, "s", "how long a task may wait for capacity")
    provision_timeout_s: float = _setting(900.0, "s", "creating a server")
    agent_ready_timeout_s: float = _setting(900.0, "s", "first ready report of a node agent")
    dispatch_timeout_s: float = _setting(600.0, "s", "handing a workspace to its node")
    workspace_bootstrap_s: float = _setting(1500.0, "s", "clone and setup on the node, as the agent enforces it")
    workspace_ready_timeout_s: float = _setting(1800.0, "s", "dispatch to ready callback")
    execution_timeout_s: float = _setting(14_400.0, "s", "time limit of a session unless the task says otherwise")
    execution_ceiling_s: float = _setting(86_400.0, "s", "nothing runs longer than this")
    session_grace_s: float = _setting(120.0, "s", "from a session's time limit to its expected report")
    cleanup_timeout_s: float = _setting(3600.0, "s", "cleanup gives up after this and says so")
    queued_stuck_s: float = _setting(1200.0, "s", "queued without progress before the stuck-task sweep looks")
    delegated_stuck_s: float = _setting(1860.0, "s", "delegated without progress before the stuck-task sweep looks")
    alarm_overdue_s: float = _setting(60.0, "s", "an alarm later than this means its runner is not alive")

    # --- nodes
    providers_file: str = _setting(
        "",
        "path",
        "which providers nodes come from (TOML); empty = providers.toml in the data directory, else local only",
    )
    provider_timeout_s: float = _setting(30.0, "s", "one request to a provider")
    provider_settle_s: float = _setting(
        60.0, "s", "a purchase whose answer was lost is repeated only when its label is still not found after this"
    )
    provider_rest_s: float = _setting(600.0, "s", "nothing is bought where the account is full, for this long")
    offer_rest_s: float = _setting(
        300.0, "s", "a size that is sold out at a place is not asked for again for this long"
    )
    node_max_life_s: float = _setting(
        86_400.0,
        "s",
        "an older node on another machine takes no new work and goes when its last is released; 0 = no limit",
    )
    node_load_max: float = _setting(
        1.5, "load/core", "a server with a higher load average gets no further work; the local node always does"
    )
    node_memory_max: float = _setting(
        75.0, "%", "a server with more of its memory in use gets no further work; the local node always does"
    )
    node_disk_max: float = _setting(85.0, "%", "the same for the disk that its workspaces are on; 100 = no limit")
    node_slots: int = _setting(4, "count", "workspaces one local node holds at once")
    local_nodes_max: int = _setting(1, "count", "local nodes at once")
    node_warm_s: float = _setting(1800.0, "s", "how long an idle node is kept warm")
    heartbeat_interval_s: float = _setting(10.0, "s", "how often a node agent reports")
    heartbeat_grace_s: float = _setting(
        5.0, "s", "a heartbeat later than its interval and this makes the node unreachable: it gets no new work"
    )
    heartbeat_stale_s: float = _setting(60.0, "s", "a heartbeat older than this is one sign of a dead node")
    dead_man_s: float = _setting(
        300.0,
        "s",
        "an agent on another machine that reached nobody for this long ends its sessions; a bought server too",
    )
    node_lost_s: float = _setting(
        360.0,
        "s",
        "a node on another machine silent for this long has ended its sessions: its tasks end or run again; "
        "at least 10 s more than the dead-man time",
    )
    agent_upgrade: bool = _setting(
        True, "flag", "a node on another machine whose agent is of another release gets no new work and goes when idle"
    )
    agent_port: int = _setting(8760, "port", "port on which agents of other machines listen")
    agent_certificate_file: str = _setting(
        "",
        "path",
        "certificate (PEM) that agents of other machines show; empty = one of this installation's own CA each",
    )
    agent_key_file: str = _setting("", "path", "private key (PEM) of that certificate")
    agent_ca_file: str = _setting("", "path", "CA certificates (PEM) that it is checked by")
    agent_tls_name: str = _setting("", "text", "the DNS name in that certificate")
    callback_token_s: float = _setting(
        172_800.0,
        "s",
        "tokens of nodes on other machines and of their workspaces live this long; heartbeats renew them at half of it",
    )
    signature_age_s: float = _setting(60.0, "s", "a signed request that is older, or this far ahead, is refused")
    capacity_poll_s: float = _setting(15.0, "s", "how often a waiting task looks for capacity when nobody rings it")
    priority_ageing_s: float = _setting(
        60.0, "s", "how long a waiting task has to wait to be as important as one whose priority is higher by 1"
    )
    provision_poll_s: float = _setting(2.0, "s", "how often a wait for a node looks")
    liveness_poll_s: float = _setting(30.0, "s", "how often a running session's node is looked at")
    agent_request_timeout_s: float = _setting(20.0, "s", "one request to a node agent")
    log_limit_bytes: int = _setting(50 * 1024 * 1024, "bytes", "output of a session that is kept")

    # --- limits
    owner_open_tasks_max: int = _setting(
        5000,
        "count",
        "tasks of one owner that have not ended, drafts included; one more is refused with 429; 0 = no limit",
    )
    open_tasks_max: int = _setting(
        20_000, "count", "tasks of all owners that have not ended; one more is refused with 503; 0 = no limit"
    )
    owner_open_runs_max: int = _setting(
        5000,
        "count",
        "open runs of pipelines of your own, for one owner; one more is refused with 429; 0 = no limit",
    )
    open_runs_max: int = _setting(
        20_000, "count", "the same of all owners together; one more is refused with 503; 0 = no limit"
    )
    token_request_rate: float = _setting(
        200.0,
        "1/s",
        "requests of one token of a user, a browser or a callback of a run to one web process, as a mean of ten seconds;"
        " more get 429; 0 = no limit",
    )
    cors_origins: str = _setting(
        "",
        "list",
        "origins whose pages may call the API with a token, separated by commas (https://a.example); empty = none",
    )
    streams_per_token: int = _setting(
        10, "count", "open streams of one API token in one web process; one more is refused with 429"
    )
    streams_max: int = _setting(
        8,
        "count",
        "open streams of one web process; one more is refused with 503; it has at least twice as many threads",
    )
    stream_max_s: float = _setting(600.0, "s", "a stream ends after this, and its client goes on with a new one")

    # --- browsers that are signed in
    browser_idle_s: float = _setting(43_200.0, "s", "a browser that asked for nothing for this long is signed out")
    browser_session_s: float = _setting(604_800.0, "s", "a browser is signed out this long after it signed in")
    sign_in_code_s: float = _setting(600.0, "s", "a sign-in link is good for this long, once")
    sign_in_rate: float = _setting(
        20.0, "1/min", "sign-ins from one address to one web process, failed ones included; more get 429; 0 = no limit"
    )
    trusted_proxies: int = _setting(
        0,
        "count",
        "proxies before the web, each of which adds to X-Forwarded-For who asked it: sign-ins are counted by that address,"
        " and the audit trail has it; 0 = the header is not believed",
    )
    # --- pipelines of your own
    pipelines: str = _setting(
        "", "names", "pipelines of your own, as module:attribute, separated by commas; beside those of entry points"
    )
    celery_app: str = _setting(
        "", "name", "the Celery application whose workers run the alarms, as module:attribute; empty = taskflow's own"
    )

    # --- what tasks may name
    repository_local_paths: bool = _setting(
        True, "flag", "tasks may name a path on the node as their repository; switch it off where owners share nodes"
    )
    repository_private_hosts: bool = _setting(
        False, "flag", "tasks may name repository hosts with loopback or private addresses (a git server of your own)"
    )

    # --- sweeps
    stuck_interval_s: float = _setting(60.0, "s", "how often the stuck-task sweep runs")
    outbox_interval_s: float = _setting(5.0, "s", "how often the outbox is drained")
    warm_interval_s: float = _setting(60.0, "s", "how often the backup for expired warm nodes runs")
    lost_nodes_interval_s: float = _setting(
        60.0, "s", "how often nodes are looked at whose machine did not look for long, or that have none"
    )
    ended_workspaces_interval_s: float = _setting(
        60.0, "s", "how often workspaces are looked for that outlived their run"
    )
    share_interval_s: float = _setting(
        15.0, "s", "how often a full provider is looked at for an owner who has more nodes than one who waits"
    )
    orphan_interval_s: float = _setting(
        3600.0, "s", "how often servers, addresses and volumes are compared with nodes, and orphans deleted"
    )
    orphan_age_s: float = _setting(3600.0, "s", "what no node needs is deleted when it is older than this")
    error_nodes_interval_s: float = _setting(
        300.0, "s", "how often nodes in status error are looked at, to try their destruction again"
    )
    prune_interval_s: float = _setting(3600.0, "s", "how often old rows are pruned")
    prune_after_s: float = _setting(30 * 86_400.0, "s", "ended tasks keep logs, signals and errors this long")
    errors_after_s: float = _setting(
        30 * 86_400.0, "s", "failed attempts of steps are kept this long, also of runs that are not over"
    )
    history_after_s: float = _setting(
        365 * 86_400.0, "s", "ended tasks, destroyed nodes and their events are deleted after this; 0 = never"
    )
    audit_after_s: float = _setting(365 * 86_400.0, "s", "lines of the audit trail are deleted after this; 0 = never")
    sweep_page: int = _setting(100, "count", "rows one sweep handles at most")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings of this environment. Raises ``UsageError`` naming every variable with a wrong value."""
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        wrong: dict[str, str] = {}
        for row in table():
            raw = environ.get(row.env)
            if raw is None or raw == "":
                continue
            try:
                values[row.name] = _parse(raw, row)
            except ValueError:
                wrong[row.env] = f"{raw!r} is {_expected(row)}"
            else:
                if row.name in _NEEDED and values[row.name] < 1:
                    wrong[row.env] = f"{raw!r} must be at least 1"
                if row.name in ("public_url", "flower_url", "url") and not _is_address(raw):
                    wrong[row.env] = "must be an address like https://taskflow.example"
        if wrong:
            raise UsageError("wrong settings: " + "; ".join(f"{k}: {v}" for k, v in wrong.items()), fields=wrong)
        settings = cls(**values)
        settings.check_ladder()
        return settings

    @property
    def data_path(self) -> Path:
        """The data directory."""
        return Path(self.data_dir) if self.data_dir else Path(platformdirs.user_data_dir("taskflow"))

    def sweep_intervals(self) -> dict[str, float]:
        """Every scheduled job with how often it runs, in seconds."""
        return {
            "rescue": self.rescue_interval_s,
            "stuck_tasks": self.stuck_interval_s,
            "outbox": self.outbox_interval_s,
            "warm_nodes": self.warm_interval_s,
            "lost_nodes": self.lost_nodes_interval_s,
            "stop_ended_workspaces": self.ended_workspaces_interval_s,
            "share_nodes": self.share_interval_s,
            "delete_orphans": self.orphan_interval_s,
            "retry_error_nodes": self.error_nodes_interval_s,
            "prune": self.prune_interval_s,
        }

    def check_ladder(self) -> None:
        """Inner limits are shorter than outer ones. Raises ``UsageError`` naming the two that disagree (L-2)."""
        for inner, outer in LADDER:
            short, long, margin = getattr(self, inner), getattr(self, outer), MARGINS.get((inner, outer), 0.0)
            margin_s = getattr(self, margin) if isinstance(margin, str) else margin
            if short >= long or long - short < margin_s:
                a, b = ENV_PREFIX + inner.upper(), ENV_PREFIX + outer.upper()
                by = f"at least {margin_s:g} s " if margin_s else ""
                by += f"({ENV_PREFIX}{margin.upper()}) " if isinstance(margin, str) and by else ""
                rule = f"must be {by}shorter than"
                raise UsageError(f"{a}={short:g} {rule} {b}={long:g}", fields={a: f"{rule} {b}"})


@dataclass(frozen=True)
class SettingRow:
    """One row of the table."""

    name: str
    env: str
    type: type
    default: Any
    unit: str
    help: str
    secret: bool


def table() -> Iterator[SettingRow]:
    """The table, row by row, in its order."""
    types = get_type_hints(Settings)
    for f in dataclasses.fields(Settings):
        yield SettingRow(
            name=f.name,
            env=ENV_PREFIX + f.name.upper(),
            type=types[f.name],
            default=f.default,
            unit=f.metadata["unit"],
            help=f.metadata["help"],
            secret=f.metadata["secret"],
        )


def _is_address(raw: str) -> bool:
    """Whether browsers and agents can be sent there. Without its scheme nobody would know that it is https."""
    try:
        parts = urlsplit(raw)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _expected(row: SettingRow) -> str:
    """What a value that ``_parse`` refuses is not."""
    if row.type is bool:
        return "neither 1, true, yes or on nor 0, false, no or off"
    number = "no whole number" if row.type is int else "no number"
    return f"{number} from 0 to {_PORT_MAX}" if row.unit == "port" else f"{number} of 0 or more"


def _parse(raw: str, row: SettingRow) -> Any:
    kind = row.type
    if kind is bool:
        lowered = raw.strip().lower()
        if lowered in ("1", "true", "yes", "on"):
            return True
        if lowered in ("0", "false", "no", "off"):
            return False
        raise ValueError(raw)
    if kind in (int, float):
        value = kind(raw)
        if value < 0 or not math.isfinite(value) or (row.unit == "port" and value > _PORT_MAX):
            raise ValueError(raw)
        return value
    return raw
