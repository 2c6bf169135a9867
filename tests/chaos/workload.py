"""The tasks: submitted with an Idempotency-Key until there is an answer, cancelled and rerun by plan."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from taskflow.db.models import Run, Task
from tests.chaos.installation import Installation, Unanswered
from tests.chaos.plan import Job

_SUBMITTERS = 12


class Workload:
    """Submits ``jobs`` to ``installation``. ``accepted``: number of a job to the id of its task."""

    def __init__(self, installation: Installation, jobs: list[Job], canary: str, say: Callable[[str], None]) -> None:
        self.installation, self.jobs, self.canary = installation, jobs, canary
        self.accepted: dict[int, str] = {}
        self.cancelled: set[int] = set()
        self.rerun: set[int] = set()
        self.refused: list[str] = []
        self.evidence = installation.root / "evidence"
        self.evidence.mkdir()
        self._say = say
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(_SUBMITTERS, "submit")

    def evidence_of(self, job: Job) -> Path:
        """Where the command of ``job`` leaves one line for each time it is executed."""
        return self.evidence / f"{job.number}"

    def run(self) -> None:
        """Submit everything at its time and wait for the answers."""
        began = time.monotonic()
        rerunner = threading.Thread(target=self._rerun_failed, name="rerun", daemon=True)
        rerunner.start()
        for job in self.jobs:
            time.sleep(max(0.0, began + job.at_s - time.monotonic()))  # the plan says when
            self._pool.submit(self._guarded, job)
        self._pool.shutdown(wait=True)
        self._rerunner = rerunner

    def end(self) -> None:
        """No more reruns."""
        self._stop.set()
        self._rerunner.join(300)

    def _spec(self, job: Job) -> dict[str, Any]:
        lines = ['echo "$TASKFLOW_RUN_NUMBER $TASKFLOW_SESSION_ID" >> "$EVIDENCE"']
        if job.prints_canary:
            lines.append('echo "it is $CANARY."')
        if job.seconds:
            lines.append(f"sleep {job.seconds}")
        if job.kind == "fails":
            lines.append("false")
        elif job.kind == "rerun":
            lines.append('[ "$TASKFLOW_RUN_NUMBER" -ge 2 ] && echo hi > f')
        else:
            lines.append("echo hi > f")
        return {
            "repository": str(self.installation.repository), "command": ["sh", "-c", "; ".join(lines)],
            "env": {"EVIDENCE": str(self.evidence_of(job))}, "labels": {"number": str(job.number)},
            "secrets": {"CANARY": f"{self.canary}{job.number:06d}"},
        }  # fmt: skip

    def _guarded(self, job: Job) -> None:
        try:
            self._submit(job)
        except (Unanswered, ValueError, KeyError) as error:
            self.refused.append(f"job {job.number}: {error!r}")

    def _submit(self, job: Job) -> None:
        answer = self.installation.api(
            "POST", "/api/tasks", headers={"Idempotency-Key": f"job-{job.number}"}, json=self._spec(job)
        )
        if answer.status_code != 202:
            self.refused.append(f"job {job.number}: {answer.status_code} {answer.text[:300]}")
            return
        self.accepted[job.number] = answer.json()["id"]
        if job.kind == "cancelled":
            timer = threading.Timer(job.cancel_after_s, self._cancel, (job,))
            timer.daemon = True
            timer.start()

    def _cancel(self, job: Job) -> None:
        try:
            answer = self.installation.api("POST", f"/api/tasks/{self.accepted[job.number]}/cancel", json={})
            if answer.status_code == 202:
                self.cancelled.add(job.number)
            elif answer.status_code != 409:
                self.refused.append(f"cancel of job {job.number}: {answer.status_code} {answer.text[:300]}")
        except Unanswered as error:
            self.refused.append(f"cancel of job {job.number}: {error!r}")

    def _rerun_failed(self) -> None:
        wanted = {job.number for job in self.jobs if job.kind == "rerun"}
        while not self._stop.wait(1):
            for number in sorted(wanted - self.rerun):
                task_id = self.accepted.get(number)
                if task_id is None:
                    continue
                try:
                    task = self.installation.api("GET", f"/api/tasks/{task_id}", patience_s=20).json()
                    if task["run_number"] > 1:
                        self.rerun.add(number)  # the answer may have been lost
                    elif task["status"] == "failed" and task["finished"]:
                        self.installation.api("POST", f"/api/tasks/{task_id}/rerun", json={}, patience_s=20)
                except Unanswered:
                    continue

    # --- looking, past every link

    def ended(self) -> tuple[int, int]:
        """Tasks that are over with their runs, and tasks at all. Raises ``SQLAlchemyError`` while SQL is down."""
        with self.installation.engine.connect() as sql:
            count = sql.execute(select(func.count()).select_from(Task)).scalar_one()
            over = sql.execute(
                select(func.count())
                .select_from(Task)
                .join(Run, Run.id == Task.run_id)
                .where(Run.finished_at.is_not(None), Task.completed_at.is_not(None))
            ).scalar_one()
        return int(over), int(count)

    def all_over(self) -> bool:
        """Every accepted task is over, and every rerun was asked for."""
        over, count = self.ended()
        wanted = {job.number for job in self.jobs if job.kind == "rerun" and job.number in self.accepted}
        return over == count >= len(self.accepted) and wanted <= self.rerun
