"""What each operation costs beside a thousand, ten thousand, a hundred thousand and a million parked tasks.

On PostgreSQL, with the rows made in bulk: each task has a run that waits for its session, a workspace, a session, an event.
No worker runs; each operation is done again and again in this process, and its time is its own.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import text

from bench.measuring import Figures
from bench.peers import ours
from bench.places import our_place
from bench.report import Measured
from bench.subjects.ours import versions
from taskflow.bootstrap import App
from taskflow.service.accounts import Caller
from tests.support.own_pipeline import start_runs
from tests.support.servers import PostgresServer

SIZES = (1_000, 10_000, 100_000, 1_000_000)
REPEATS = 40
_BATCH = 2_000
_FAR_S = 24 * 3600.0
_SPEC = {
    "repository": "/srv/r", "command": ["true"], "title": "t", "env": {}, "secrets": {}, "labels": {}, "push": False,
    "time_limit_s": 100.0, "priority": 0,
}  # fmt: skip
#: What makes the tasks after ``:have`` up to ``:wanted``, as they stand while their sessions run.
_FILL = (
    """INSERT INTO runs (id, owner_id, pipeline, version, subject_kind, subject_id, number, step, rev, step_entered_at,
                         results, created_at, awaiting, wake_at)
       SELECT 'grown-' || n, :owner, 'agent_task', 1, 'task', 'grown-' || n, 1, 'running', 6, :now, '{}', :now,
              'session_outcome', :wake FROM generate_series(:have + 1, :wanted) n""",
    """INSERT INTO tasks (id, owner_id, title, status, priority, labels, repository, command, env, push, time_limit_s,
                          allow_node_fallback, run_id, run_number, created_at, updated_at)
       SELECT 'grown-' || n, :owner, 't', 'in_progress', 0, '{}', 'r', '[]', '{}', false, 100, false, 'grown-' || n, 1,
              :now, :now FROM generate_series(:have + 1, :wanted) n""",
    """INSERT INTO events (owner_id, subject_kind, subject_id, seq, run_id, kind, actor, data, at)
       SELECT :owner, 'task', 'grown-' || n, 1, 'grown-' || n, 'status_changed', 'runner', '{}', :now
       FROM generate_series(:have + 1, :wanted) n""",
    """INSERT INTO nodes (id, owner_id, run_id, name, provider, label, status, slots, placements, created_at)
       SELECT 'grown-' || n, :owner, 'node-run-' || n, 'n', 'local', 'grown-' || n, 'active', 4, 0, :now
       FROM generate_series(:have / 1000 + 1, :wanted / 1000) n""",
    """INSERT INTO workspaces (id, owner_id, task_id, run_id, node_id, status, reserved_at)
       SELECT 'grown-' || n, :owner, 'grown-' || n, 'grown-' || n, 'grown-' || (1 + (n - 1) / 1000), 'ready', :now
       FROM generate_series(:have + 1, :wanted) n""",
    """INSERT INTO agent_sessions (id, owner_id, task_id, run_id, workspace_id, status, log_bytes, started_at)
       SELECT 'grown-' || n, :owner, 'grown-' || n, 'grown-' || n, 'grown-' || n, 'started', 0, :now
       FROM generate_series(:have + 1, :wanted) n""",
)


class _Silent:
    """No hint is sent: nobody works here but us."""

    def publish(self, alarm: Any) -> None:
        """Drop it."""

    def backlog(self) -> int:
        """None waits."""
        return 0


def measure(rounds: int, peers: Sequence[str]) -> Measured:
    """Median milliseconds of an operation for each size, and how the largest compares with the smallest."""
    found = Measured("grow", {"sizes": list(SIZES), "repeats": REPEATS})
    for number in range(rounds):
        figures = _one_round()
        for name, value in figures.items():
            print(f"round {number + 1}: {name:<34}{value}", file=sys.stderr, flush=True)
        found.rounds.append({"taskflow": figures})
    found.versions = {"taskflow": versions()}
    return found


def _one_round() -> Figures:
    figures: dict[str, float | None] = {}
    with PostgresServer(durable=True) as server, our_place(server.create_database("bench"), _UNLIMITED) as here:
        app = here.app
        os.environ["BENCH_LOG"] = here.place.environ["BENCH_LOG"]  # the steps run in this process
        app.pipelines.setdefault(ours.CHAIN.name, ours.CHAIN)
        app.pipelines.setdefault(ours.PARKED.name, ours.PARKED)
        app.ringer._publisher = app.pump._publisher = _Silent()
        token = app.service.accounts.create_token(name="grow")["token"]
        caller = app.service.accounts.authenticate(token, "api")
        app.pump.tick()  # the first look at a store reconciles it
        have = 0
        for size in SIZES:
            _grow(app, here.owner_id, have, size)
            have = size
            for name, work in _operations(app, caller, here.owner_id).items():
                figures[f"{name}_ms_{size}"] = _median_ms(work)
    for name in {key.split("_ms_")[0] for key in figures}:
        smallest, largest = figures[f"{name}_ms_{SIZES[0]}"], figures[f"{name}_ms_{SIZES[-1]}"]
        assert smallest and largest
        figures[f"{name}_growth"] = round(largest / smallest, 2)
    return dict(sorted(figures.items()))


_UNLIMITED = {"TASKFLOW_OWNER_OPEN_TASKS_MAX": "0", "TASKFLOW_OPEN_TASKS_MAX": "0"}


def _grow(app: App, owner_id: str, have: int, wanted: int) -> None:
    """Rows and control state of the parked tasks that are not there yet; then what autovacuum would have done."""
    print(f"parking {wanted} tasks", file=sys.stderr, flush=True)
    now = app.control.now()
    values = {"owner": owner_id, "now": now, "wake": now + _FAR_S, "have": have, "wanted": wanted}

    def fill(tx: Any) -> None:
        for statement in _FILL:
            tx.execute(text(statement), values)

    app.database.write(fill)
    cursor = "" if not have else "grown"
    while rows := app.store.open_runs(cursor, _BATCH):
        app.control.ensure(rows)
        cursor = rows[-1].id
    with app.database.read() as tx:
        tx.exec_driver_sql("VACUUM ANALYZE")
        tx.exec_driver_sql("CHECKPOINT")


def _operations(app: App, caller: Caller, owner_id: str) -> dict[str, Callable[[], Any]]:
    now = app.control.now()
    fresh = iter(start_runs(app, owner_id, ours.CHAIN, [{"job": "x"}] * (REPEATS + 5), now=now))
    parked = start_runs(app, owner_id, ours.PARKED, [{"job": "x"}] * (REPEATS + 5), now=now)
    for row in parked:
        app.runner.turn(row.id)
    waiting = iter(parked)

    def wake() -> None:
        run_id = next(waiting).id
        ours.signal(app, run_id)
        app.runner.turn(run_id)

    sweeps = {f"sweep_{name}": lambda name=name: app.sweep(name) for name in app.sweeps}
    return {
        "submit": lambda: app.service.tasks.submit(caller, _SPEC),
        "list": lambda: app.service.tasks.list(caller, limit=50),
        "turn": lambda: app.runner.turn(next(fresh).id),
        "signal_and_turn": wake,
        "pump": app.pump.tick,
        **sweeps,
    }


def _median_ms(work: Callable[[], Any]) -> float:
    for _ in range(5):
        work()
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return round(statistics.median(took) * 1000, 3)
