"""The tables. Invariants that a schema can hold are held here: unique and partial indexes, checks, foreign keys.

Every ``*_at`` is seconds since the epoch in double precision: exact against Redis time, the same on both databases.
Columns that a step compares carry Redis time; ``created_at`` and ``updated_at`` are for people, no decision reads them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

import taskflow.db.account_models  # noqa: F401 - its tables are part of the schema
from taskflow.db.base import Base as Base
from taskflow.db.base import Id, Serial, TransactionId, one_of, partial
from taskflow.db.roles import ROLES
from taskflow.db.status import NODE_STATUSES, SESSION_STATUSES, STATUSES, WORKSPACE_STATUSES


class Owner(Base):
    """Whose tasks, nodes and tokens these are. Every query of the product carries it."""

    __tablename__ = "owners"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    created_at: Mapped[float]


class Token(Base):
    """A bearer token, hashed. ``scope`` api: a user's; node and workspace: callbacks of exactly ``subject_id``;
    bootstrap: the order of exactly that node, until its agent is ready."""

    __tablename__ = "tokens"
    __table_args__ = (
        CheckConstraint(one_of("scope", ("api", "node", "workspace", "bootstrap")), name="scope"),
        CheckConstraint("(scope = 'api') = (subject_id IS NULL)", name="subject"),
        CheckConstraint(one_of("role", ROLES), name="role"),
        CheckConstraint("(scope = 'api') = (role IS NOT NULL)", name="role_of_user"),
    )
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"), index=True)
    scope: Mapped[str] = mapped_column(String(16))
    subject_id: Mapped[str | None] = mapped_column(Id, index=True)
    name: Mapped[str] = mapped_column(String(200))
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    #: How often it was renewed: each renewal is a row, and the one before stays good until it expires.
    generation: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    #: Of a user's token: what it may do, and about when it was used last.
    role: Mapped[str | None] = mapped_column(String(16))
    last_used_at: Mapped[float | None]


class Task(Base):
    """What the user asked for and what became of it. ``status`` is written by ``transition`` alone."""

    __tablename__ = "tasks"
    __table_args__ = (
        CheckConstraint(one_of("status", STATUSES), name="status"),
        CheckConstraint(
            "(status IN ('completed', 'failed', 'cancelled')) = (completed_at IS NOT NULL)", name="completed_at"
        ),
        Index("ix_tasks_owner_status", "owner_id", "status", "created_at", "id"),
        Index("ix_tasks_owner_created", "owner_id", "created_at", "id"),
        Index("ix_tasks_node", "node_id", "owner_id", "created_at", "id"),
        partial("ix_tasks_project", "owner_id", "project", "created_at", "id", where="project <> ''"),
        partial("ix_tasks_ended", "completed_at", where="completed_at IS NOT NULL"),
    )
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"))
    title: Mapped[str] = mapped_column(String(500))
    status: Mapped[str] = mapped_column(String(16), index=True)
    priority: Mapped[int] = mapped_column(Integer, default=0)
    project: Mapped[str] = mapped_column(String(64), server_default=text("''"))
    labels: Mapped[dict[str, Any]]
    # what was asked
    repository: Mapped[str] = mapped_column(Text)
    branch: Mapped[str | None] = mapped_column(String(500))
    command: Mapped[list[str]]
    setup_command: Mapped[list[str] | None]
    env: Mapped[dict[str, Any]]
    secrets_encrypted: Mapped[bytes | None] = mapped_column(LargeBinary)
    push: Mapped[bool] = mapped_column(Boolean)
    time_limit_s: Mapped[float]
    resources: Mapped[dict[str, Any] | None]
    requested_node_id: Mapped[str | None] = mapped_column(Id)
    allow_node_fallback: Mapped[bool] = mapped_column(Boolean, default=False)
    #: How often it may be run again by itself after its node was lost, and how often it was.
    node_loss_reruns_max: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    node_loss_reruns: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    # the run under way, or the last one
    run_id: Mapped[str | None] = mapped_column(Id, index=True)
    run_number: Mapped[int] = mapped_column(Integer, default=0)
    node_id: Mapped[str | None] = mapped_column(Id)
    placement: Mapped[dict[str, Any] | None]
    # what became of it
    output_branch: Mapped[str | None] = mapped_column(String(500))
    output_commit: Mapped[str | None] = mapped_column(String(64))
    pushed: Mapped[bool | None]
    changed_files: Mapped[list[str] | None]
    exit_code: Mapped[int | None]
    error: Mapped[dict[str, Any] | None]
    late_result: Mapped[dict[str, Any] | None]
    created_at: Mapped[float]
    updated_at: Mapped[float]
    started_at: Mapped[float | None]
    completed_at: Mapped[float | None]


class Run(Base):
    """The n-th execution of a subject: a task, a node, or a user's own thing. ``finished_at`` NULL = open.

    ``rev`` is the fence: each apply says ``WHERE rev = :seen`` and adds one. ``wake_at`` is enough to re-arm it.
    No index holds what a step changes: such an update would write every index of the table.
    """

    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("subject_kind", "subject_id", "number"),
        partial("ux_runs_open_subject", "subject_kind", "subject_id", where="finished_at IS NULL", unique=True),
        partial("ix_runs_open", "id", where="finished_at IS NULL"),
        partial("ix_runs_cancelled", "id", where="finished_at IS NULL AND cancel_requested_at IS NOT NULL"),
        partial("ix_runs_to_prune", "finished_at", where="finished_at IS NOT NULL AND pruned_at IS NULL"),
        partial("ix_runs_own_ended", "finished_at", where="subject_kind = 'own' AND finished_at IS NOT NULL"),
        CheckConstraint("rev >= 0", name="rev"),
    )
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"))
    pipeline: Mapped[str] = mapped_column(String(64))
    version: Mapped[int]
    subject_kind: Mapped[str] = mapped_column(String(32))
    subject_id: Mapped[str] = mapped_column(Id)
    number: Mapped[int]
    step: Mapped[str] = mapped_column(String(64))
    rev: Mapped[int] = mapped_column(BigInteger, default=0)
    step_entered_at: Mapped[float]
    deadline_at: Mapped[float | None]
    awaiting: Mapped[str | None] = mapped_column(String(64))
    wake_at: Mapped[float | None]
    results: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    cancel_requested_at: Mapped[float | None]
    cancel_requested_by: Mapped[str | None] = mapped_column(String(200))
    cancel_reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[float]
    finished_at: Mapped[float | None]
    pruned_at: Mapped[float | None]


class IdempotencyKey(Base):
    """What a client's ``Idempotency-Key`` was used for, so that a repeated request answers the same."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_task", "task_id"),)
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    created_at: Mapped[float]


class SignalRow(Base):
    """A recorded signal. First write wins: one question (name, subject) has one answer for each run."""

    __tablename__ = "signals"
    __table_args__ = (
        UniqueConstraint("run_id", "name", "subject"),
        partial("ix_signals_unconsumed", "run_id", "name", where="consumed_at IS NULL"),
    )
    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(128))
    payload: Mapped[dict[str, Any]]
    recorded_at: Mapped[float]
    consumed_at: Mapped[float | None]


class Event(Base):
    """Append-only history. ``seq`` numbers the events of one subject without a gap.

    (``xact``, ``id``) is the order over all subjects: see ``taskflow.db.feed``.
    """

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("subject_kind", "subject_id", "seq"),
        Index("ix_events_feed", "owner_id", "xact", "id"),
    )
    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    xact: Mapped[int] = mapped_column(BigInteger, server_default=TransactionId())
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"))
    subject_kind: Mapped[str] = mapped_column(String(32))
    subject_id: Mapped[str] = mapped_column(Id)
    seq: Mapped[int]
    run_id: Mapped[str | None] = mapped_column(Id)
    kind: Mapped[str] = mapped_column(String(64))
    step: Mapped[str | None] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(200))
    data: Mapped[dict[str, Any]]
    at: Mapped[float]


class ErrorRow(Base):
    """A failed attempt of a step, with its cause."""

    __tablename__ = "errors"
    __table_args__ = (Index("ix_errors_run", "run_id", "id"), Index("ix_errors_owner", "owner_id", "id"))
    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"))
    run_id: Mapped[str] = mapped_column(Id)
    step: Mapped[str] = mapped_column(String(64))
    attempt: Mapped[int]
    code: Mapped[str] = mapped_column(String(64))
    error: Mapped[dict[str, Any]]
    retry_in_s: Mapped[float | None]
    at: Mapped[float]


class Node(Base):
    """A machine with a node agent, and the server a provider gave us for it. ``label`` names it at the provider."""

    __tablename__ = "nodes"
    __table_args__ = (
        CheckConstraint(one_of("status", NODE_STATUSES), name="status"),
        CheckConstraint("slots > 0", name="slots"),
        Index("ix_nodes_owner_status", "owner_id", "status"),
        partial("ix_nodes_standing", "provider", "owner_id", where="destroyed_at IS NULL"),
        partial("ix_nodes_destroyed", "destroyed_at", where="destroyed_at IS NOT NULL"),
    )
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"))
    run_id: Mapped[str] = mapped_column(Id, unique=True)
    name: Mapped[str] = mapped_column(String(200))
    provider: Mapped[str] = mapped_column(String(32))
    label: Mapped[str] = mapped_column(String(128), unique=True)
    status: Mapped[str] = mapped_column(String(16))
    slots: Mapped[int]
    # what was ordered
    size: Mapped[str] = mapped_column(String(64), server_default=text("''"))
    location: Mapped[str] = mapped_column(String(64), server_default=text("''"))
    vcpus: Mapped[float | None]
    memory_mb: Mapped[int | None]
    price_per_hour: Mapped[float] = mapped_column(server_default=text("0"))
    wish: Mapped[dict[str, Any] | None]
    #: When the present intent to call the provider was committed, and what tells it from the one before.
    intent_at: Mapped[float | None]
    intent: Mapped[str | None] = mapped_column(String(32))
    bought_at: Mapped[float | None]
    bootstrap_claim: Mapped[str | None] = mapped_column(String(64))
    boot_stage: Mapped[str | None] = mapped_column(String(32))
    boot_stage_at: Mapped[float | None]
    #: Somebody asked for it by hand: it stays, idle or not, until somebody lets it go.
    kept: Mapped[bool] = mapped_column(Boolean, server_default=false())
    server_id: Mapped[str | None] = mapped_column(String(200))
    address: Mapped[str | None] = mapped_column(String(500))
    boot_id: Mapped[str | None] = mapped_column(String(64))
    agent_version: Mapped[str | None] = mapped_column(String(64))
    agent_ready_at: Mapped[float | None]
    last_heartbeat_at: Mapped[float | None]
    heartbeat: Mapped[dict[str, Any] | None]
    unreachable_since: Mapped[float | None]
    warm_until: Mapped[float | None]
    placements: Mapped[int] = mapped_column(BigInteger, default=0)
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[float]
    destroyed_at: Mapped[float | None]


class ProviderAccount(Base):
    """What is remembered of a provider between orders: until when nothing is bought there, and why.

    ``offers_rest`` maps what was sold out (``size@location``) to when it may be asked for again. ``blocked``: the error of
    a refused credential; nothing is bought until a check succeeds. ``checked``: what the last check found, at
    ``checked_at``; one is asked for while ``check_asked_at`` is later, and a worker is at it since ``check_began_at``.
    """

    __tablename__ = "provider_accounts"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    rests_until: Mapped[float | None]
    rests_because: Mapped[dict[str, Any] | None]
    blocked: Mapped[dict[str, Any] | None]
    offers_rest: Mapped[dict[str, Any]]
    changed_at: Mapped[float]
    check_asked_at: Mapped[float | None]
    check_began_at: Mapped[float | None]
    checked_at: Mapped[float | None]
    checked: Mapped[dict[str, Any] | None]


class Workspace(Base):
    """A place on a node for one run. It takes a slot until ``released_at``: slots are counted, never stored."""

    __tablename__ = "workspaces"
    __table_args__ = (
        CheckConstraint(one_of("status", WORKSPACE_STATUSES), name="status"),
        CheckConstraint("(status = 'released') = (released_at IS NOT NULL)", name="released_at"),
        partial("ix_workspaces_live", "node_id", where="released_at IS NULL"),
        Index("ix_workspaces_node", "node_id"),
    )
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"))
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), index=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), unique=True)
    node_id: Mapped[str] = mapped_column(ForeignKey("nodes.id"))
    status: Mapped[str] = mapped_column(String(16))
    vcpus: Mapped[float] = mapped_column(server_default=text("0"))
    memory_mb: Mapped[int] = mapped_column(server_default=text("0"))
    base_commit: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[dict[str, Any] | None]
    reserved_at: Mapped[float]
    dispatched_at: Mapped[float | None]
    ready_at: Mapped[float | None]
    released_at: Mapped[float | None]


class AgentSession(Base):
    """One execution of the task's command in its workspace."""

    __tablename__ = "agent_sessions"
    __table_args__ = (
        CheckConstraint(one_of("status", SESSION_STATUSES), name="status"),
        CheckConstraint("(status = 'ended') = (ended_at IS NOT NULL)", name="ended_at"),
    )
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"))
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), index=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"), unique=True)
    status: Mapped[str] = mapped_column(String(16))
    outcome: Mapped[dict[str, Any] | None]
    log_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    last_progress_at: Mapped[float | None]
    started_at: Mapped[float]
    ended_at: Mapped[float | None]


class LogChunk(Base):
    """A piece of a session's output, as the agent numbered it."""

    __tablename__ = "log_chunks"
    session_id: Mapped[str] = mapped_column(ForeignKey("agent_sessions.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    at: Mapped[float]


class OutboxRow(Base):
    """Work that a transaction promised. ``kind`` names its consumer; the row is done when that returned.

    ``owner_id``: whom it is for, NULL for the installation. ``error``: why its consumer failed last.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        partial("ix_outbox_open", "next_at", where="done_at IS NULL"),
        partial("ix_outbox_done", "done_at", where="done_at IS NOT NULL"),
    )
    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[float]
    next_at: Mapped[float]
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    done_at: Mapped[float | None]
    owner_id: Mapped[str | None] = mapped_column(Id)
    error: Mapped[dict[str, Any] | None]


class Sweep(Base):
    """Memory of a scheduled job: its cursor, and when it last succeeded."""

    __tablename__ = "sweeps"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    cursor: Mapped[str] = mapped_column(String(200), default="")
    state: Mapped[dict[str, Any]]
    last_started_at: Mapped[float | None]
    last_success_at: Mapped[float | None]
    last_result: Mapped[dict[str, Any] | None]
    failures: Mapped[int] = mapped_column(Integer, default=0)


class SweepBackoff(Base):
    """An item that a sweep failed at: left alone until ``next_at``, so that it can't keep others from their turn."""

    __tablename__ = "sweep_backoffs"
    sweep: Mapped[str] = mapped_column(String(64), primary_key=True)
    item: Mapped[str] = mapped_column(String(200), primary_key=True)
    failures: Mapped[int]
    next_at: Mapped[float]
    error: Mapped[dict[str, Any]]


class Quota(Base):
    """What an owner, or a project of theirs, may use at most; NULL: no limit. ``project`` '': all of the owner's.

    ``vcpu_hours_max`` and ``budget`` are for a calendar month (UTC); the budget is in the catalogue's currency.
    """

    __tablename__ = "quotas"
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"), primary_key=True)
    project: Mapped[str] = mapped_column(String(64), primary_key=True)
    nodes_max: Mapped[int | None]
    running_tasks_max: Mapped[int | None]
    node_workspaces_max: Mapped[int | None]
    vcpu_hours_max: Mapped[float | None]
    budget: Mapped[float | None]
    changed_at: Mapped[float]


class ControlShard(Base):
    """Under which incarnation of the control store a shard was last reconciled."""

    __tablename__ = "control_shards"
    shard: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    incarnation: Mapped[str] = mapped_column(String(200))
    reconciled_at: Mapped[float]


class Installation(Base):
    """Facts of this installation that must not change by a setting, such as the number of shards."""

    __tablename__ = "installation"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(200))
