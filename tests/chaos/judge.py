"""What came out: every promise asked of SQL, Redis, the disk and the process list."""

from __future__ import annotations

import contextlib
import subprocess
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, select

from taskflow.db.models import AgentSession, Event, Run, Task, Workspace
from tests.chaos.installation import Installation
from tests.chaos.placed import Placed
from tests.chaos.plan import Job
from tests.chaos.workload import Workload
from tests.support import invariants

#: What a task may end with that was running on the machine when it went away whole.
_LOST_WITH_THE_MACHINE = {"session_lost", "node_lost", "workspace_failed", "node_failed"}


@dataclass
class Verdict:
    """Sentences by kind; all of them empty when every promise was kept."""

    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    duplicate_effects: list[str] = field(default_factory=list)
    illegal_transitions: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    unexpected_ends: list[str] = field(default_factory=list)
    lost_with_machine: list[str] = field(default_factory=list)


class _Seen:
    """What SQL says of the runs. ``order``: run to the time in its history of a cancel and of its session's outcome."""

    def __init__(self, engine: Engine) -> None:
        self.order: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._told_at: dict[str, float] = {}
        with engine.connect() as sql:
            self.runs = {row.id: row for row in sql.execute(select(Run.__table__))}
            self._workspaces = {row.run_id: row for row in sql.execute(select(Workspace.__table__))}
            for event in sql.execute(select(Event.__table__).where(Event.subject_kind == "task")):
                name = event.data.get("name") if event.kind == "signal_recorded" else event.kind
                if name in ("session_outcome", "cancel_requested"):
                    self.order[event.run_id].setdefault(name, event.seq)
                if name == "session_outcome":
                    self._told_at[event.run_id] = event.at

    def on_machine(self, run_id: str, installation: Installation) -> bool:
        """Whether the run had a workspace, and had not told its outcome, at a moment when the machine went away."""
        workspace = self._workspaces.get(run_id)
        if workspace is None:
            return False
        end = min(workspace.released_at or float("inf"), self._told_at.get(run_id, float("inf")))
        # A loss is told in the machine's own name too: an outcome "lost" comes after the machine is back.
        return any(workspace.reserved_at <= at <= end for at in installation.supervisor_deaths)


def judge(installation: Installation, workload: Workload, rev: invariants.RevWatch, placed: Placed) -> Verdict:
    """Look at everything, when nothing goes on any more."""
    verdict = Verdict()
    with installation.engine.connect() as sql:
        tasks = {row.id: row for row in sql.execute(select(Task.__table__))}
    seen = _Seen(installation.engine)
    _submitted_once(workload, tasks, verdict)
    for job in workload.jobs:
        task = tasks.get(workload.accepted.get(job.number, ""))
        if task is not None:
            _ended_right(job, task, seen, installation, workload, verdict)
    _executed_once(workload, installation, tasks, verdict)
    _commits(installation, tasks, verdict)
    verdict.duplicate_effects += placed.twice()
    verdict.illegal_transitions += [
        *invariants.status_histories(installation.engine), *invariants.event_numbers(installation.engine), *rev.wrong
    ]  # fmt: skip
    meddled = installation.notes / "meddled"
    if meddled.exists():
        verdict.illegal_transitions += sorted(set(meddled.read_text().splitlines()))
    with contextlib.closing(installation.valkey.client()) as client:
        verdict.leaks += [
            *invariants.open_rows(installation.engine),
            *invariants.control_state_left(client, installation.engine),
            *invariants.servers_bought(installation.engine, installation.data_dir),
            *invariants.workspaces_left(installation.data_dir),
            *invariants.processes_left(installation.data_dir),
        ]
    return verdict


def _submitted_once(workload: Workload, tasks: dict[str, Any], verdict: Verdict) -> None:
    by_number = Counter(task.labels.get("number") for task in tasks.values())
    for job in workload.jobs:
        if by_number[str(job.number)] > 1:
            verdict.duplicate_effects.append(f"{by_number[str(job.number)]} tasks for job {job.number}")
        if workload.accepted.get(job.number) not in tasks:
            verdict.lost.append(f"job {job.number}: {workload.accepted.get(job.number, 'never accepted')}")


def _ended_right(
    job: Job, task: Any, seen: _Seen, installation: Installation, workload: Workload, verdict: Verdict
) -> None:
    run = seen.runs.get(task.run_id)
    if task.completed_at is None or run is None or run.finished_at is None:
        verdict.stuck.append(f"{task.id} (job {job.number}, {job.kind}) is {task.status} at {run and run.step}")
        return
    right = {"fails": "failed"}.get(job.kind, "completed")
    outcome, cancel = seen.order[run.id].get("session_outcome"), seen.order[run.id].get("cancel_requested")
    if job.number in workload.cancelled and cancel is None:
        verdict.lost.append(f"the cancel of {task.id} (job {job.number}) was accepted and is not in its history")
    # Whichever came first decides: the outcome of the session or the cancel.
    if cancel is not None and (outcome is None or cancel < outcome):
        right = "cancelled"
    ways = {right, "cancelled"} if cancel is not None and right == "completed" else {right}
    code = (task.error or {}).get("code")
    runs = [row for row in seen.runs.values() if row.subject_id == task.id]
    if job.kind == "rerun" and len(runs) != 2:
        verdict.unexpected_ends.append(f"{task.id} (job {job.number}, {job.kind}) has {len(runs)} runs")
    if task.status in ways and (task.status != "failed" or code == "command_failed"):
        return
    told = f"{task.id} (job {job.number}, {job.kind}) is {task.status}: {task.error}"
    if task.status == "failed" and code in _LOST_WITH_THE_MACHINE and seen.on_machine(run.id, installation):
        verdict.lost_with_machine.append(told)
    else:
        verdict.unexpected_ends.append(told)


def _executed_once(workload: Workload, installation: Installation, tasks: dict[str, Any], verdict: Verdict) -> None:
    for job in workload.jobs:
        file = workload.evidence_of(job)
        lines = file.read_text().splitlines() if file.exists() else []
        task = tasks.get(workload.accepted.get(job.number, ""))
        if not lines and task is not None and task.status == "completed":
            verdict.lost.append(f"{task.id} (job {job.number}) is completed and its command never ran")
        for run_number, count in Counter(line.split()[0] for line in lines).items():
            if count > 1:
                verdict.duplicate_effects.append(
                    f"the command of job {job.number} ran {count} times in run {run_number}"
                )
    entered: defaultdict[str, Counter[str]] = defaultdict(Counter)
    # Nodes become warm again and again; a run of a task enters each status once.
    changes = select(Event.run_id, Event.data).where(Event.kind == "status_changed", Event.subject_kind == "task")
    with installation.engine.connect() as sql:
        for event in sql.execute(changes):
            entered[event.run_id][event.data["to"]] += 1
        sessions = Counter(sql.execute(select(AgentSession.run_id)).scalars())
    verdict.duplicate_effects += [
        f"{run_id} was {status} {count} times"
        for run_id, found in entered.items()
        for status, count in found.items()
        if count > 1 and run_id
    ]
    verdict.duplicate_effects += [f"{run_id} has {count} sessions" for run_id, count in sessions.items() if count > 1]


def _commits(installation: Installation, tasks: dict[str, Any], verdict: Verdict) -> None:
    done = subprocess.run(
        ["git", "-C", str(installation.repository), "for-each-ref", "--format=%(refname:short)", "refs/heads"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    main = subprocess.run(
        ["git", "-C", str(installation.repository), "rev-parse", "main"], check=True, capture_output=True, text=True
    ).stdout.strip()
    branches = set(done.stdout.split()) - {"main"}
    told = subprocess.run(
        ["git", "-C", str(installation.repository), "for-each-ref", "--format=%(refname:short) %(parent)", "refs/heads"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    for line in told.stdout.splitlines():
        branch, _, parent = line.partition(" ")
        if branch != "main" and parent.strip() != main:
            verdict.duplicate_effects.append(f"{branch} is not one commit after main")
    for task in tasks.values():
        if task.status == "completed" and task.output_branch not in branches:
            verdict.lost.append(f"{task.id} is completed and its branch {task.output_branch} is not there")
