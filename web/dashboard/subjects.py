"""What settings and scheduled jobs are about, in the words of a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: The first setting of each group, in the order of the table, and what the group is about.
FIRST_SETTINGS = {
    "TASKFLOW_DATA_DIR": "Places, addresses and logs", "TASKFLOW_KEY_PREFIX": "Engine: alarms, turns, attempts",
    "TASKFLOW_WORKER_CONCURRENCY": "Workers", "TASKFLOW_ADMISSION_WAIT_S": "How long a task may take, step by step",
    "TASKFLOW_PROVIDERS_FILE": "Nodes and their agents", "TASKFLOW_OWNER_OPEN_TASKS_MAX": "Limits",
    "TASKFLOW_BROWSER_IDLE_S": "Browsers that are signed in", "TASKFLOW_PIPELINES": "Pipelines of your own",
    "TASKFLOW_REPOSITORY_LOCAL_PATHS": "What tasks may name", "TASKFLOW_STUCK_INTERVAL_S": "Sweeps, and what is kept",
}  # fmt: skip
SWEEPS = {
    "rescue": "Rebuilds what Redis lost of open runs, and wakes those that are overdue.",
    "stuck_tasks": "Repairs tasks that no longer move, and fails those that it can't repair.",
    "outbox": "Does what was promised together with a step, such as deleting a workspace.",
    "warm_nodes": "Wakes idle nodes whose time is over, so that they go.",
    "lost_nodes": "Sees to nodes that are not heard of, take too long to come, or were left over.",
    "stop_ended_workspaces": "Deletes workspaces on nodes whose run is over.",
    "share_nodes": "Hands a node to an owner who waits, where a provider has no room for more.",
    "delete_orphans": "Deletes servers, addresses and volumes that no node needs.",
    "retry_error_nodes": "Tries again to destroy nodes that could not be destroyed.",
    "prune": "Deletes what is older than the settings say: output, events, ended tasks.",
}
#: Where a setting comes from that somebody chose: neither its default nor what the stack sets for its processes.
_CHOSEN = "environment"


@dataclass
class Group:
    """Settings of one subject."""

    name: str
    rows: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def set_count(self) -> int:
        """How many of them somebody set."""
        return sum(row["source"] == _CHOSEN for row in self.rows)


def groups(settings: Iterable[Mapping[str, Any]], text: str = "", set_only: bool = False) -> list[Group]:
    """The settings that have ``text`` in their name or help, by subject; those without any are left out."""
    found: list[Group] = []
    for row in settings:
        if row["name"] in FIRST_SETTINGS or not found:
            found.append(Group(FIRST_SETTINGS.get(row["name"], "Others")))
        is_wanted = text.lower() in f"{row['name']} {row['help']}".lower()
        if is_wanted and not (set_only and row["source"] != _CHOSEN):
            found[-1].rows.append(row)
    return [group for group in found if group.rows]
