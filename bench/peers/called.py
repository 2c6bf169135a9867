"""Tasks of ours that wait for a report of their workspace, made in bulk: no node is needed to report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, insert, select

from bench.peers.ours import CALLED
from taskflow import protocol
from taskflow.bootstrap import App
from taskflow.db.models import Node, Run, Token, Workspace
from taskflow.db.runs import insert_run
from taskflow.db.tasks import insert_task
from taskflow.db.workspaces import WORKSPACE_OUTCOME
from taskflow.engine.store import RunRow
from taskflow.ids import new_run_id, new_task_id
from taskflow.vault import hash_token
from tests.support.waiting import wait_until

_NODE = "node-called"


def await_callbacks(wired: App, owner_id: str, jobs: Sequence[str]) -> Mapping[str, tuple[str, str]]:
    """A task for each job: job -> path and token of its workspace's report. They wait when this returns."""
    now = wired.control.now()
    rows: list[RunRow] = []

    def work(tx: Any) -> None:
        rows.clear()
        tx.execute(
            insert(Node).values(
                id=_NODE, owner_id=owner_id, run_id="run-of-node", name="n", provider="local", label=_NODE, status="active",
                slots=len(jobs), placements=0, created_at=now,
            )
        )  # fmt: skip
        for job in jobs:
            rows.append(_make(tx, owner_id, job, now))

    wired.database.write(work)
    wired.ringer.publish(wired.control.ensure(rows))
    wait_until(lambda: _waiting(wired) == len(jobs), "all wait for their report", timeout_s=60)
    path = protocol.CALLBACK_WORKSPACE_OUTCOME
    return {job: (path.format(workspace_id=f"ws-{job}"), f"token-{job}") for job in jobs}


def _make(tx: Any, owner_id: str, job: str, now: float) -> RunRow:
    task_id = new_task_id()
    run = RunRow(
        id=new_run_id(), pipeline=CALLED.name, version=CALLED.version, subject_kind="task", subject_id=task_id, number=1,
        owner_id=owner_id, step=CALLED.first, rev=0, step_entered_at=now, created_at=now, results={"job": job},
    )  # fmt: skip
    insert_run(tx, run)
    insert_task(
        tx,
        {
            "id": task_id, "owner_id": owner_id, "title": job, "status": "in_progress", "priority": 0, "labels": {},
            "repository": "/srv/r", "command": ["true"], "env": {}, "push": False, "time_limit_s": 100.0,
            "allow_node_fallback": False, "run_id": run.id, "run_number": 1,
        },
        actor="bench", now=now,
    )  # fmt: skip
    tx.execute(
        insert(Workspace).values(
            id=f"ws-{job}", owner_id=owner_id, task_id=task_id, run_id=run.id, node_id=_NODE, status="dispatched",
            reserved_at=now, dispatched_at=now,
        )
    )  # fmt: skip
    tx.execute(
        insert(Token).values(
            id=f"token-{job}", owner_id=owner_id, scope="workspace", subject_id=f"ws-{job}", name=job,
            token_hash=hash_token(f"token-{job}"), created_at=now,
        )
    )  # fmt: skip
    return run


def _waiting(wired: App) -> int:
    with wired.database.read() as tx:
        waiting = select(func.count()).select_from(Run).where(Run.awaiting == WORKSPACE_OUTCOME)
        return int(tx.execute(waiting).scalar_one())
