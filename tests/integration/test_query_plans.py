"""Every hot query finds its rows by an index on PostgreSQL, however many rows there are beside them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Connection, event

from taskflow.bootstrap import App, bootstrap
from taskflow.db import events, feed, listing, nodes, own_runs, providers, tasks, tokens, waiting, workspaces
from taskflow.db.runs import get_run, record_signal
from taskflow.engine.store import Change
from taskflow.ids import RunId
from taskflow.service import overview
from taskflow.settings import Settings
from taskflow.sweeps.prune import prune, prune_history
from tests.conftest import ValkeyDatabase
from tests.support.databases import _postgres_database
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.integration

#: Tasks in the database, half of them parked, half over. A table of so many rows is never read whole by a good plan.
TASKS = 20_000
_BIG = ("tasks", "runs", "events", "signals", "errors", "workspaces", "agent_sessions", "log_chunks", "tokens", "outbox",
        "idempotency_keys", "nodes", "own_runs")  # fmt: skip
_SCAN = re.compile(r"Seq Scan on (\w+)")
#: A part of a statement that may read a whole table -> why.
_ALLOWED = {"AS mine": "admission counts what is open, up to its limits; here that is half of all tasks"}

_FILL = f"""
INSERT INTO owners (id, name, created_at) VALUES ('o', 'o', 0), ('p', 'p', 0);
INSERT INTO runs (id, owner_id, pipeline, version, subject_kind, subject_id, number, step, rev, step_entered_at, results,
                  created_at, awaiting, wake_at, finished_at)
  SELECT 'run-' || n, CASE WHEN mod(n, 10) = 0 THEN 'p' ELSE 'o' END, 'agent_task', 1, 'task', 'task-' || n, 1,
         CASE WHEN mod(n, 2) = 0 THEN 'running' ELSE 'cleanup' END, 3, n, '{{}}', n,
         CASE WHEN mod(n, 2) = 0 THEN 'session_outcome' END, CASE WHEN mod(n, 2) = 0 THEN 9e9 END,
         CASE WHEN mod(n, 2) = 1 THEN n END
  FROM generate_series(1, {TASKS}) n;
INSERT INTO runs (id, owner_id, pipeline, version, subject_kind, subject_id, number, step, rev, step_entered_at, results,
                  created_at)
  SELECT 'node-run-' || n, 'o', 'node', 1, 'node', 'node-' || n, 1, 'active', 3, n, '{{}}', n
  FROM generate_series(1, 20) n;
INSERT INTO runs (id, owner_id, pipeline, version, subject_kind, subject_id, number, step, rev, step_entered_at, results,
                  created_at, finished_at)
  SELECT 'own-run-' || n, CASE WHEN mod(n, 10) = 0 THEN 'p' ELSE 'o' END, 'order', 1, 'own', 'own-' || n, 1, 'paid', 3, n,
         '{{}}', n, CASE WHEN mod(n, 100) > 1 THEN n END
  FROM generate_series(1, {TASKS}) n;
INSERT INTO own_runs (run_id, owner_id, subject)
  SELECT 'own-run-' || n, CASE WHEN mod(n, 10) = 0 THEN 'p' ELSE 'o' END, 'order ' || n
  FROM generate_series(1, {TASKS}) n;
INSERT INTO tasks (id, owner_id, title, status, priority, labels, repository, command, env, push, time_limit_s,
                   allow_node_fallback, run_id, run_number, created_at, updated_at, completed_at)
  SELECT 'task-' || n, CASE WHEN mod(n, 10) = 0 THEN 'p' ELSE 'o' END, 't', CASE WHEN mod(n, 2) = 0 THEN 'in_progress'
         ELSE 'completed' END, 0, '{{}}', 'r', '[]', '{{}}', false, 100, false, 'run-' || n, 1, n, n,
         CASE WHEN mod(n, 2) = 1 THEN n END
  FROM generate_series(1, {TASKS}) n;
INSERT INTO events (owner_id, subject_kind, subject_id, seq, run_id, kind, actor, data, at)
  SELECT 'o', 'task', 'task-' || n, s, 'run-' || n, 'step_entered', 'runner', '{{}}', n
  FROM generate_series(1, {TASKS}) n, generate_series(1, 3) s;
INSERT INTO signals (run_id, name, subject, payload, recorded_at, consumed_at)
  SELECT 'run-' || n, 'workspace_outcome', 's', '{{}}', n, n FROM generate_series(1, {TASKS}) n;
INSERT INTO errors (owner_id, run_id, step, attempt, code, error, at)
  SELECT 'o', 'run-' || n, 'running', 1, 'c', '{{}}', n FROM generate_series(1, {TASKS}) n;
INSERT INTO nodes (id, owner_id, run_id, name, provider, label, status, slots, placements, created_at, destroyed_at)
  SELECT 'node-' || n, 'o', 'node-run-' || n, 'n', 'local', 'node-' || n,
         CASE WHEN n <= 20 THEN 'active' ELSE 'destroyed' END, 4, 0, n, CASE WHEN n > 20 THEN n END
  FROM generate_series(1, {TASKS} / 4) n;
UPDATE nodes SET address = 'http://a', last_heartbeat_at = 9e9, heartbeat = '{{"workspaces": ["ws-2", "ws-4"]}}'
  WHERE destroyed_at IS NULL;
INSERT INTO workspaces (id, owner_id, task_id, run_id, node_id, status, reserved_at, released_at)
  SELECT 'ws-' || n, 'o', 'task-' || n, 'run-' || n, 'node-' || (1 + mod(n, 20)),
         CASE WHEN mod(n, 2) = 0 THEN 'ready' ELSE 'released' END, n, CASE WHEN mod(n, 2) = 1 THEN n END
  FROM generate_series(1, {TASKS}) n;
INSERT INTO agent_sessions (id, owner_id, task_id, run_id, workspace_id, status, log_bytes, started_at, ended_at)
  SELECT 'session-' || n, 'o', 'task-' || n, 'run-' || n, 'ws-' || n,
         CASE WHEN mod(n, 2) = 0 THEN 'started' ELSE 'ended' END, 0, n, CASE WHEN mod(n, 2) = 1 THEN n END
  FROM generate_series(1, {TASKS}) n;
INSERT INTO log_chunks (session_id, number, data, at)
  SELECT 'session-' || n, s, 'x', n FROM generate_series(1, {TASKS}) n, generate_series(1, 2) s;
INSERT INTO tokens (id, owner_id, scope, subject_id, name, token_hash, created_at)
  SELECT 'token-' || n, 'o', 'workspace', 'ws-' || n, 't', 'hash-' || n, n FROM generate_series(1, {TASKS}) n;
INSERT INTO outbox (kind, payload, created_at, next_at, attempts, done_at)
  SELECT 'capacity_released', '{{}}', n, n, 1, n FROM generate_series(1, {TASKS}) n;
INSERT INTO idempotency_keys (owner_id, key, request_hash, task_id, created_at)
  SELECT 'o', 'key-' || n, 'h', 'task-' || n, n FROM generate_series(1, {TASKS}) n;
"""


_ROOMY: dict[str, Any] = {"sweep_page": 50, "owner_open_tasks_max": 10 * TASKS, "open_tasks_max": 10 * TASKS}


@dataclass
class Big:
    """An installation with much in it, and what it sent to SQL since ``sent`` was cleared."""

    app: App
    sent: list[tuple[str, Any]]

    def scans(self) -> dict[str, str]:
        """Statements whose plan reads a whole big table -> their plan."""
        found = {}
        with self.app.database.engine.connect() as connection:
            for statement, parameters in self.sent:
                if statement.split(None, 1)[0] not in ("SELECT", "UPDATE", "DELETE", "WITH"):
                    continue
                plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())
                if set(_SCAN.findall(plan)) & set(_BIG):
                    found[statement] = plan
        return found


@pytest.fixture(scope="module")
def big_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    """A PostgreSQL database with ``TASKS`` tasks and what belongs to them, analysed."""
    for url in _postgres_database(postgres_server, postgres_template):
        from taskflow.db.session import make_engine

        engine = make_engine(url)
        with engine.begin() as connection:
            for statement in _FILL.split(";\n"):
                if statement.strip():
                    connection.exec_driver_sql(statement)
            connection.exec_driver_sql("ANALYZE")
        engine.dispose()
        yield url


@pytest.fixture
def big(big_url: str, valkey: ValkeyDatabase, settings: Settings) -> Iterator[Big]:
    """It, with an empty Valkey."""
    app = bootstrap(dataclasses.replace(settings, database_url=big_url, redis_url=valkey.url, **_ROOMY))
    found = Big(app, [])

    def on_statement(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        found.sent.append((statement, parameters))

    event.listen(app.database.engine, "before_cursor_execute", on_statement)
    yield found
    app.close()


def _in_tx(work: Callable[[Any], Any]) -> Callable[[Big], Any]:
    """Do ``work``, and undo it: the next test finds the same rows."""

    def act(big: Big) -> None:
        with big.app.database.engine.connect() as connection, connection.begin() as transaction:
            work(connection)
            transaction.rollback()

    return act


def _apply(big: Big) -> None:
    with big.app.database.read() as tx:
        run = get_run(tx, "run-2")
    assert run is not None
    step = Change("running", 5.0, entered=True, deadline_at=None, consumed=(1,))
    big.app.store.apply(run, step)


def _submit(big: Big) -> None:
    caller = big.app.service.accounts.authenticate(
        big.app.service.accounts.create_token(owner="o", name="t")["token"], "api"
    )
    spec = {
        "repository": "/srv/r", "command": ["true"], "title": "t", "env": {}, "secrets": {}, "labels": {}, "push": False,
        "time_limit_s": 100.0, "priority": 0, "start": False,
    }  # fmt: skip
    big.app.service.tasks.submit(caller, spec, idempotency_key="mine")
    made = big.app.service.tasks.submit(caller, spec, idempotency_key="mine")[0]
    big.app.service.tasks.get(caller, made["id"])
    big.app.service.tasks.list(caller, limit=20)
    big.app.service.tasks.cancel(caller, made["id"])


def _events_of_own_run(tx: Connection) -> None:
    run = own_runs.get_own_run(tx, "o", "own-run-7")
    assert run is not None
    own_runs.events_of_run(tx, run, 0, 100)


HOT: dict[str, Callable[[Big], Any]] = {
    "load": lambda big: big.app.store.load(RunId("run-2")),
    "apply": _apply,
    "submit, read, list and cancel": _submit,
    "record a signal": _in_tx(lambda tx: (get_run(tx, "run-4", lock=True),
                                          record_signal(tx, "run-4", "go", "s", {}, now=1.0))),
    "page of open runs": lambda big: big.app.store.open_runs("run-5", 100),
    "runs whose signal is there": lambda big: big.app.store.runs_with_awaited_signal(100),
    "finished or unknown": lambda big: big.app.store.finished_or_unknown([RunId("run-1"), RunId("run-2")]),
    "outbox": lambda big: big.app.sweep("outbox"),
    "stuck tasks": lambda big: big.app.sweep("stuck_tasks"),
    "warm nodes": lambda big: big.app.sweep("warm_nodes"),
    "lost nodes": lambda big: big.app.sweep("lost_nodes"),
    "ended workspaces": lambda big: big.app.sweep("stop_ended_workspaces"),
    "nodes in error": lambda big: big.app.sweep("retry_error_nodes"),
    "prune": lambda big: prune(big.app.database, now=100.0, keep_s=50.0, limit=5),
    "prune the history": lambda big: prune_history(big.app.database, now=100.0, keep_s=90.0, limit=5),
    "events after": _in_tx(lambda tx: events.events_after(tx, "o", "task", "task-7", 1, 100)),
    "a page of the feed": _in_tx(lambda tx: feed.feed_after(tx, "o", feed.Position(5, 5), 100)),
    "the first page of the feed": _in_tx(lambda tx: feed.feed_after(tx, "p", feed.BEGINNING, 100)),
    "the end of the feed": _in_tx(lambda tx: feed.feed_end(tx)),
    "events after a restore": _in_tx(lambda tx: feed.settle_restored(tx)),
    "append an event": _in_tx(lambda tx: events.append_event(
        tx, owner_id="o", subject_kind="task", subject_id="task-7", kind="k", actor="a", at=1.0)),
    "first page of tasks": _in_tx(lambda tx: listing.list_tasks(tx, "o", limit=50)),
    "page of tasks in the middle": _in_tx(
        lambda tx: listing.list_tasks(tx, "o", limit=50, before=(TASKS / 2, f"task-{TASKS // 2}"))),
    "page of queued tasks": _in_tx(
        lambda tx: listing.list_tasks(tx, "o", listing.TaskFilter(statuses=("queued",)), limit=50)),
    "tasks of a status that most have": _in_tx(
        lambda tx: listing.list_tasks(tx, "o", listing.TaskFilter(statuses=("completed",)), limit=50)),
    "tasks of a project": _in_tx(lambda tx: listing.list_tasks(tx, "o", listing.TaskFilter(project="rare"), limit=50)),
    "tasks of a node": _in_tx(lambda tx: listing.list_tasks(tx, "p", listing.TaskFilter(node_id="node-3"), limit=50)),
    "tasks since": _in_tx(
        lambda tx: listing.list_tasks(tx, "o", listing.TaskFilter(created_after=TASKS - 100.0), limit=50)),
    "runs of a task": _in_tx(lambda tx: listing.list_runs(tx, "o", "task-7", limit=20)),
    "steps of its runs": _in_tx(lambda tx: listing.steps_of_runs(tx, "o", "task-7", ["run-7"])),
    "errors of an owner": _in_tx(lambda tx: listing.list_errors(tx, "o", limit=50, before=TASKS // 2)),
    "errors of a task": _in_tx(lambda tx: listing.list_errors(tx, "o", limit=50, task_id="task-7")),
    "a page of own runs": _in_tx(lambda tx: own_runs.list_own_runs(tx, "o", limit=50, before="own-run-5")),
    "own runs that wait": _in_tx(
        lambda tx: own_runs.list_own_runs(tx, "o", own_runs.RunFilter(("waiting",)), limit=50)),
    "own runs about a subject": _in_tx(
        lambda tx: own_runs.list_own_runs(tx, "o", own_runs.RunFilter(subject="order 7"), limit=50)),
    "how many own runs are open": _in_tx(
        lambda tx: own_runs.open_counts(tx, "o", mine_max=5000, all_max=20_000)),
    "open own runs by what they do": _in_tx(lambda tx: own_runs.count_open_runs(tx, "o")),
    "own runs that failed lately": _in_tx(lambda tx: own_runs.failed_runs(tx, "o", TASKS - 100.0, 5)),
    "own runs that ended lately": _in_tx(lambda tx: overview._ended_runs(tx, "o", TASKS - 100.0)),
    "the last run of a subject": _in_tx(lambda tx: own_runs.last_of_subject(tx, "own-7")),
    "an own run by its key": _in_tx(lambda tx: own_runs.run_of_key(tx, "o", "mine")),
    "events of an own run": _in_tx(_events_of_own_run),
    "signals of a run that wait": _in_tx(lambda tx: own_runs.count_waiting_signals(tx, "own-run-7")),
    "who shows a callback's token": _in_tx(lambda tx: own_runs.find_callback(tx, "own-run-7", "hash")),
    "a page of who waits": _in_tx(
        lambda tx: waiting.waiting_page(tx, "o", limit=50, ageing_s=60.0, after=(5.0, "run-5"))),
    "a page of nodes": _in_tx(lambda tx: nodes.list_nodes(tx, "o", with_destroyed=True, limit=50, before="node-3")),
    "task of a run": _in_tx(lambda tx: tasks.task_of_run(tx, "run-9")),
    "who waits for capacity": _in_tx(lambda tx: waiting.first_waiting(tx, "o", 5, ageing_s=60.0)),
    "how many wait for capacity": _in_tx(lambda tx: waiting.count_waiting(tx, "o")),
    "the best claims": _in_tx(lambda tx: waiting.best_ranks(tx, "cloud", ageing_s=60.0)),
    "nodes of everybody": _in_tx(lambda tx: providers.server_counts(tx)),
    "share nodes": lambda big: big.app.sweep("share_nodes"),
    "candidates": _in_tx(lambda tx: nodes.candidates(tx, "p")),
    "a node": _in_tx(lambda tx: nodes.get_node(tx, "node-3")),
    # One with as few workspaces as a real node has; of five hundred the whole table is the better way.
    "tokens of a node": _in_tx(lambda tx: tokens.newest_tokens(tx, "node-30")),
    "workspace of a run": _in_tx(lambda tx: workspaces.workspace_of_run(tx, "run-3")),
    "release a workspace": _in_tx(lambda tx: workspaces.release_workspace_effect("ws-2", now=1.0)(tx)),
}  # fmt: skip


@pytest.mark.parametrize("name", HOT)
def test_no_hot_query_reads_a_whole_table(big: Big, name: str) -> None:
    """What is sent is explained with what it is sent with."""
    HOT[name](big)
    assert big.sent
    found = {
        statement: plan for statement, plan in big.scans().items() if not any(part in statement for part in _ALLOWED)
    }
    assert not found, "\n\n".join(f"{statement}\n{plan}" for statement, plan in found.items())


def test_a_query_without_an_index_is_noticed(big: Big) -> None:
    """The net holds: a search by a column that has none."""
    with big.app.database.read() as tx:
        tx.exec_driver_sql("SELECT id FROM tasks WHERE title = 'x'")
    assert len(big.scans()) == 1
