"""Rows as the API and the command line show them: JSON-ready, times in ISO 8601, never a secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row

from taskflow.clock import isoformat
from taskflow.db.own_runs import status_of
from taskflow.db.status import TERMINAL
from taskflow.db.usage import NOTHING, Use, node_use
from taskflow.db.user_tokens import NewToken
from taskflow.engine.pipeline import INPUT
from taskflow.engine.store import RunRow


def money(amount: float) -> float:
    """An amount as it is shown."""
    return round(float(amount), 6)


def task_view(
    row: Row[Any],
    run: RunRow | None,
    use: Use = NOTHING,
    unknown: Mapping[str, Any] | None = None,
    *,
    output_at: float | None = None,
) -> dict[str, Any]:
    """A task with the step of its run, and its ``use`` so far. ``finished``: nothing of it goes on any more, cleanup
    included. ``unknown``: what ``taskflow.service.unheard`` found. ``output_at``: when its running command last wrote."""
    open_run = run is not None and run.finished_at is None
    return {
        "id": row.id,
        "title": row.title,
        "status": row.status,
        "step": run.step if run is not None and open_run else None,
        "finished": row.status in TERMINAL and not open_run,
        "cancel_requested": bool(run is not None and open_run and run.cancel_requested_at is not None),
        "run_id": row.run_id,
        "run_number": row.run_number,
        "run_created_at": None if run is None else isoformat(run.created_at),
        "repository": row.repository,
        "branch": row.branch,
        "command": row.command,
        "setup_command": row.setup_command,
        "env": row.env,
        "has_secrets": row.secrets_encrypted is not None,
        "push": row.push,
        "time_limit_s": row.time_limit_s,
        "priority": row.priority,
        "project": row.project,
        "labels": row.labels,
        "resources": row.resources,
        "node_id": row.node_id,
        "placement": row.placement,
        "last_output_at": isoformat(output_at),
        "node_loss_reruns": row.node_loss_reruns_max,
        "node_loss_reruns_done": row.node_loss_reruns,
        "unknown_since": None if unknown is None else unknown["since"],
        "unreachable": unknown,
        "result": {
            "output_branch": row.output_branch,
            "commit": row.output_commit,
            "pushed": row.pushed,
            "changed_files": row.changed_files,
            "exit_code": row.exit_code,
        },
        "usage": {
            "seconds": round(use.seconds, 1),
            "vcpu_seconds": round(use.vcpu_seconds, 1),
            "cost": money(use.cost),
        },
        "error": row.error,
        "late_result": row.late_result,
        "created_at": isoformat(row.created_at),
        "updated_at": isoformat(row.updated_at),
        "started_at": isoformat(row.started_at),
        "completed_at": isoformat(row.completed_at),
    }


def task_summary(row: Row[Any]) -> dict[str, Any]:
    """A task as a line of a list."""
    return {
        "id": row.id,
        "title": row.title,
        "status": row.status,
        "project": row.project,
        "step": None if row.run_finished_at is not None else row.step,
        "run_number": row.run_number,
        "run_created_at": isoformat(row.run_created_at),
        "node_id": row.node_id,
        "error": row.error,
        "created_at": isoformat(row.created_at),
        "completed_at": isoformat(row.completed_at),
    }


def own_run_view(row: Row[Any]) -> dict[str, Any]:
    """A run of a pipeline of one's own, with what it was given and what it left."""
    return {
        **own_run_summary(row),
        "input": row.results.get(INPUT, {}),
        "results": {name: value for name, value in row.results.items() if not name.startswith("$")},
        "result": row.result,
    }


def own_run_summary(row: Row[Any]) -> dict[str, Any]:
    """The same as a line of a list. ``status``: running, waiting (for a signal), completed, failed or cancelled."""
    is_open = row.finished_at is None
    return {
        "id": row.id,
        "pipeline": row.pipeline,
        "subject": row.subject,
        "number": row.number,
        "status": status_of(row),
        "finished": not is_open,
        "step": row.step if is_open else None,
        "awaiting": row.awaiting if is_open else None,
        "deadline_at": isoformat(row.deadline_at) if is_open else None,
        "cancel_requested": is_open and row.cancel_requested_at is not None,
        "error": row.error,
        "created_at": isoformat(row.created_at),
        "finished_at": isoformat(row.finished_at),
    }


def event_view(row: Row[Any]) -> dict[str, Any]:
    """One event of a history."""
    return {
        "subject_kind": row.subject_kind,
        "subject_id": row.subject_id,
        "seq": row.seq,
        "kind": row.kind,
        "step": row.step,
        "actor": row.actor,
        "run_id": row.run_id,
        "data": row.data,
        "at": isoformat(row.at),
    }


def node_view(row: Row[Any], now: float) -> dict[str, Any]:
    """A node with its load and the age of its heartbeat."""
    beat, use = row.heartbeat or {}, node_use(row, now)
    return {
        "id": row.id,
        "name": row.name,
        "provider": row.provider,
        "status": row.status,
        "size": row.size,
        "location": row.location,
        "vcpus": row.vcpus,
        "memory_mb": row.memory_mb,
        "reserved_vcpus": float(row.reserved_vcpus),
        "reserved_memory_mb": int(row.reserved_memory_mb),
        "slots": row.slots,
        "live_workspaces": row.live_workspaces,
        "price_per_hour": row.price_per_hour,
        "seconds": round(use.seconds, 1),
        "cost": money(use.cost),
        "kept": row.kept,
        "boot_stage": row.boot_stage,
        "boot_stage_at": isoformat(row.boot_stage_at),
        "unreachable_since": isoformat(row.unreachable_since),
        "address": row.address,
        "agent_version": row.agent_version,
        "heartbeat_age_s": None if row.last_heartbeat_at is None else round(max(0.0, now - row.last_heartbeat_at), 1),
        "load1": beat.get("load1"),
        "cores": beat.get("cores"),
        "memory_percent": beat.get("memory_percent"),
        "disk_percent": beat.get("disk_percent"),
        "warm_until": isoformat(row.warm_until),
        "error": row.error,
        "created_at": isoformat(row.created_at),
        "destroyed_at": isoformat(row.destroyed_at),
    }


def token_view(row: Row[Any]) -> dict[str, Any]:
    """A user's token as lists show it, without the token."""
    return {
        "id": row.id,
        "name": row.name,
        "role": row.role,
        "created_at": isoformat(row.created_at),
        "expires_at": isoformat(row.expires_at),
        "revoked_at": isoformat(row.revoked_at),
        "last_used_at": isoformat(row.last_used_at),
    }


def new_token_view(made: NewToken, owner: str, owner_id: str) -> dict[str, Any]:
    """A user's token that was just made, with the token: it is shown this once."""
    return {
        "id": made.id,
        "token": made.token,
        "name": made.name,
        "role": made.role,
        "owner": owner,
        "owner_id": owner_id,
        "created_at": isoformat(made.created_at),
        "expires_at": isoformat(made.expires_at),
    }
