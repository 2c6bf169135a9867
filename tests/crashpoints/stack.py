"""A real stack with a worker that is made to die: the supervisor's own processes, and our keeper for the worker."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis
import requests
from sqlalchemy import func, select

from taskflow.cli.embedded import make_token
from taskflow.db.models import Event, Node
from taskflow.db.session import make_engine
from taskflow.settings import Settings
from taskflow.stack.commands import stack_specs
from taskflow.stack.environment import READY_FILE, child_environment
from taskflow.stack.supervisor import Supervisor
from tests.e2e.stack import git, make_repository
from tests.support import invariants, processes
from tests.support.waiting import wait_until

#: What makes one crash cheap: a short lease, nodes that go as soon as they are idle, sweeps all the time.
FAST = {
    "lease_s": 0.5, "ring_grace_s": 0.2, "pump_interval_s": 0.1, "rescue_interval_s": 1.0, "outbox_interval_s": 0.5,
    "node_warm_s": 0.3, "heartbeat_interval_s": 0.5, "provision_poll_s": 0.2, "capacity_poll_s": 1.0,
    "node_slots": 1, "retry_base_s": 0.1, "port": 0, "stuck_interval_s": 1.0, "warm_interval_s": 1.0,
}  # fmt: skip
_ROOT = Path(__file__).parents[2]


class CrashStack:
    """Valkey, database, beat, node host and web as the supervisor starts them; the worker is the keeper's."""

    def __init__(self, root: Path, database_url: str) -> None:
        self.data_dir = root / "data"
        self.points = root / "points"
        self.points.mkdir(parents=True)
        self.repository = make_repository(root / "repository")
        self.supervisor = Supervisor(
            Settings(data_dir=str(self.data_dir), database_url=database_url, **FAST),  # type: ignore[arg-type]
            with_flower=False,
            make_specs=lambda settings, data_dir, _: [
                spec for spec in stack_specs(settings, data_dir, None) if spec.name != "worker"
            ],
        )
        self.supervisor.make_token = lambda: make_token(self.supervisor.settings, shared=False)
        self.worker_log = root / "worker.log"

    def __enter__(self) -> CrashStack:
        self.supervisor.start()
        info = self.supervisor.data_dir.read_stack_info()
        assert info is not None
        self.url, self._headers = info.url, {"Authorization": f"Bearer {info.token}"}
        self.engine = make_engine(info.database_url)
        self.redis = redis.Redis.from_url(info.redis_url)
        self.rev = invariants.RevWatch(self.engine)
        ready = self.points / "ready"
        environ = {
            **child_environment(self.supervisor.settings, self.supervisor.data_dir.supervisor_lock),
            "CRASHPOINTS_DIR": str(self.points), READY_FILE: str(ready), "PYTHONPATH": str(_ROOT),
        }  # fmt: skip
        with self.worker_log.open("ab") as log:
            self.keeper = subprocess.Popen(
                [sys.executable, "-m", "tests.crashpoints.keeper"], env=environ, stdout=log, stderr=log,
                cwd=self.data_dir, preexec_fn=processes.die_with_parent(signal.SIGKILL),
            )  # fmt: skip
        wait_until(ready.exists, f"the worker is ready; see {self.worker_log}", timeout_s=60)
        return self

    def __exit__(self, *_: object) -> None:
        processes.end_process(self.keeper, signal.SIGTERM)
        self.engine.dispose()
        self.redis.close()
        self.supervisor.stop()

    # --- points

    def arm(self, *points: str) -> None:
        """Make the worker die at the first of ``points``, the next one at the second, and so on."""
        (self.points / "killed").unlink(missing_ok=True)
        aside = self.points / "arming"
        aside.write_text("\n".join(points))
        aside.rename(self.points / "armed")

    def disarm(self) -> list[str]:
        """The points at which a worker died since ``arm``."""
        (self.points / "armed").unlink(missing_ok=True)
        killed = self.points / "killed"
        return killed.read_text().splitlines() if killed.exists() else []

    def seen(self) -> list[str]:
        """Every point since the last call, each once, in order of its first time."""
        file = self.points / "seen"
        found = list(dict.fromkeys(file.read_text().splitlines())) if file.exists() else []
        file.unlink(missing_ok=True)
        return found

    # --- a pair of tasks

    def api(self, method: str, path: str, **kwargs: Any) -> Any:
        """One request to the web process."""
        response = requests.request(method, self.url + path, headers=self._headers, timeout=30, **kwargs)
        assert response.ok, response.text
        return response.json()

    def walk(self, evidence: Path, *points: str) -> list[dict[str, Any]]:
        """Two tasks on one slot, from submit until their node is destroyed: the second waits for capacity.

        Each leaves a line in ``evidence`` when its workspace is made and when its command starts. The worker dies at
        ``points``; what goes on all the time (pump, sweeps) is not hit before there is something to do.
        """
        gate = evidence.with_suffix(".gate")
        early = bool(points) and not points[0].endswith("@pump") and "@sweep:" not in points[0]
        if early:
            self.arm(*points)
        first = self._submit(evidence, ["sh", "-c", _COMMAND + f'; until [ -e "{gate}" ]; do sleep 0.05; done'])
        try:
            wait_until(lambda: self._reached(first, "workspace_creation"), "the first has the slot", timeout_s=60)
            # One that was ordered before may have been warm for too long while a dead worker's lease ran out.
            assert self.living_nodes() == 1, "the first task has exactly one node"
            if points and not early:
                self.arm(*points)
            second = self._submit(evidence, ["sh", "-c", _COMMAND])
            wait_until(lambda: self._reached(second, "waiting_for_capacity"), "the second waits", timeout_s=60)
        finally:
            gate.touch()  # a walk that failed must not hold the next one's slot
        wait_until(self._over, "everything is over", timeout_s=90, poll_s=0.1)
        return [self.api("GET", f"/api/tasks/{task_id}") for task_id in (first, second)]

    def _submit(self, evidence: Path, command: Sequence[str]) -> str:
        spec = {
            "repository": str(self.repository), "command": list(command), "env": {"EVIDENCE": str(evidence)},
            "setup_command": ["sh", "-c", f'echo "workspace $(pwd)" >> "{evidence}"'],
        }  # fmt: skip
        return str(self.api("POST", "/api/tasks", json=spec)["id"])

    def _reached(self, task_id: str, step: str) -> bool:
        """Whether the task's run has entered ``step`` at any time."""
        self.rev.look()
        with self.engine.connect() as sql:
            rows = sql.execute(
                select(Event.data, Event.step).where(Event.subject_id == task_id, Event.kind == "step_entered")
            ).all()
        return any(step in (row.step, row.data.get("to"), row.data.get("step")) for row in rows)

    def _over(self) -> bool:
        self.rev.look()
        return not invariants.open_rows(self.engine)

    def living_nodes(self) -> int:
        """Nodes that were ordered and are not destroyed."""
        with self.engine.connect() as sql:
            living = select(func.count()).select_from(Node).where(Node.destroyed_at.is_(None))
            return int(sql.execute(living).scalar_one())

    # --- judging

    def wrong(self, tasks: Sequence[dict[str, Any]], evidence: Path) -> list[str]:
        """Everything that is not as it must be after ``tasks``."""
        wrong: list[str] = []
        for task in tasks:
            statuses = [
                event["data"]["to"]
                for event in self.api("GET", f"/api/tasks/{task['id']}/events?limit=1000")["events"]
                if event["kind"] == "status_changed"
            ]
            if statuses != ["queued", "delegated", "in_progress", "completed"]:
                wrong.append(f"{task['id']} went through {statuses}: {task.get('error')}")
                continue
            commits = git(self.repository, "rev-list", "--count", f"main..{task['result']['output_branch']}").strip()
            if commits != "1":
                wrong.append(f"{commits} commits on the branch of {task['id']}")
        lines = evidence.read_text().splitlines() if evidence.exists() else []
        made = [line for line in lines if line.startswith("workspace ")]
        started = [line for line in lines if line.startswith("session")]
        if (len(made), len(set(made)), len(started)) != (len(tasks), len(tasks), len(tasks)):
            wrong.append(f"workspaces made and sessions started for {len(tasks)} tasks: {lines}")
        return wrong + self.left()

    def left(self) -> list[str]:
        """What is left of runs that are over, and histories that can't be."""
        return [
            *invariants.status_histories(self.engine),
            *invariants.event_numbers(self.engine),
            *self.rev.wrong,
            *invariants.open_rows(self.engine),
            *invariants.control_state_left(self.redis, self.engine),
            *invariants.servers_bought(self.engine, self.data_dir),
            *invariants.workspaces_left(self.data_dir),
            *invariants.processes_left(self.data_dir),
        ]


_COMMAND = 'echo session >> "$EVIDENCE"; echo hi > hello.txt'
