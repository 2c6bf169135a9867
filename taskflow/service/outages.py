"""What it costs that a store, a process, a scheduled job, a provider or a pipeline does not work, and what to do about it.

The counterpart of ``diagnosis`` for what ``Health`` found: there facts are judged, here a judgement is explained.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from taskflow.logs import mask_text
from taskflow.service.diagnosis import Finding

#: What a store that does not work costs, by the check of readiness that says so.
STORES = {
    "database": "nothing is accepted, and every task stands still; nothing that was accepted is lost",
    "migrations": "processes of this release refuse to start; running ones of the release before go on",
    "redis": "submissions are accepted and wait in SQL; every task stands still until Redis is back",
    "database_writes": "submissions are refused, tasks stand still; nothing that was accepted is lost",
    "redis_writes": "no alarm can be set: submissions wait in SQL, tasks stand still",
}
#: What it costs that a scheduled job does not succeed.
SWEEPS = {
    "rescue": "a run whose alarm or control state is gone stands still until somebody looks",
    "stuck_tasks": "a task that no longer moves is failed late",
    "outbox": "what was promised with a step, such as deleting a workspace, is done late",
    "warm_nodes": "an idle node whose alarm was lost stays for longer than it should",
    "lost_nodes": "nodes that are not heard of, and their tasks, are given up late",
    "stop_ended_workspaces": "workspaces of tasks that ended go on using their node",
    "share_nodes": "owners who wait are not handed a node that another one does not need",
    "delete_orphans": "servers that no node knows are not deleted, and cost money",
    "retry_error_nodes": "servers of nodes in error are not given back, and may cost money",
    "prune": "old rows stay, and the tables grow",
}
_START = "start one: taskflow up does, or the line {} of the Procfile"


def explained(one: Mapping[str, str], paused: Collection[str]) -> Finding:
    """``one`` (``{"check", "state", "says"}``) as a finding. ``paused``: the scheduled jobs that somebody stopped."""
    check, state, says = one["check"], one["state"], mask_text(one["says"])
    if state == "ok":
        return Finding(check, state, says)
    consequence, advice = _costs(check, paused)
    return Finding(check, state, says, "delayed" if consequence else "none", consequence, None, advice)


def _costs(check: str, paused: Collection[str]) -> tuple[str, str]:
    kind, _, name = check.partition(" ")
    if check in STORES:
        advice = "see to that store; all goes on by itself then"
        return STORES[check], "run: taskflow db upgrade" if check == "migrations" else advice
    if check == "broker":
        return (
            "submissions are accepted, and no worker hears of what is due; it is rung again when the broker is back",
            "start the broker, or correct TASKFLOW_BROKER_URL",
        )
    if check == "worker":
        return "tasks are taken and wait; nothing is lost", _START.format("worker")
    if check == "beat":
        return "scheduled jobs do not run; workers stand in for the rescue alone", _START.format("beat")
    if kind == "sweep" and name in SWEEPS:
        resume = f"let it run again: taskflow sweeps resume {name}"
        return SWEEPS[name], resume if name in paused else "is beat running? taskflow sweeps says what it fails at"
    if kind == "provider":
        return (
            "no node is bought there, and none is given back; a task that needs one waits, and fails at its limit",
            f"mend what it says, then: taskflow providers check {name}",
        )
    if kind == "pipeline":
        return "its runs stand still; nothing of them is lost", "register it: the setting is TASKFLOW_PIPELINES"
    return "", ""
