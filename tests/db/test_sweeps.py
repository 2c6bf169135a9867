"""The scheduled jobs: decisions as a table, isolation of bad rows, and what pruning keeps."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import redis
import structlog
from sqlalchemy import func, insert, select, update

from taskflow.db.events import append_event, promise
from taskflow.db.models import ErrorRow, Event, IdempotencyKey, OutboxRow, Run, SignalRow, Sweep, Task
from taskflow.db.tasks import remember_idempotency
from taskflow.engine.alarms import Ringer
from taskflow.engine.control import Control
from taskflow.errors import NotFound
from taskflow.nodes.liveness import Liveness
from taskflow.settings import Settings
from taskflow.sweeps.drain_outbox import Postponed, drain_outbox, failing_rows
from taskflow.sweeps.fail_stuck_tasks import Decision, Facts, StuckTasks, decide
from taskflow.sweeps.ledger import Memory, last_success_at, run_sweep
from taskflow.sweeps.prune import prune, prune_all, prune_history
from tests.db.conftest import OWNER, World
from tests.support.engine import Hints

S = Settings()


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    """What was logged, kept instead of printed."""
    with structlog.testing.capture_logs() as found:
        yield found


#: status, step -> seconds after which a task is past its limit (in_progress: of the running time).
LIMITS = {
    ("queued", "node_selection"): S.queued_stuck_s,
    ("delegated", "workspace_ready"): S.delegated_stuck_s,
    ("in_progress", "running"): 100.0 + 2 * S.session_grace_s,
    ("queued", "waiting_for_capacity"): S.admission_wait_s + S.alarm_overdue_s,
}
CEILING_S = S.execution_ceiling_s + S.session_grace_s


@pytest.mark.parametrize(("where", "alive", "repaired", "past", "liveness", "ceiling"), list(
    itertools.product(LIMITS, (True, False), (None, 3, 4), (True, False), Liveness, (True, False))
))  # fmt: skip
def test_the_decision_about_a_stuck_task(
    where: tuple[str, str], alive: bool, repaired: int | None, past: bool, liveness: Liveness, ceiling: bool
) -> None:
    """Ceiling first, then a live runner is skipped, then repair, and only then the limit with its verdict."""
    status, step = where
    age_s = LIMITS[where] + (1 if past else -1)
    running = ceiling or status == "in_progress"
    facts = Facts(
        status=status, step=step, rev=4, now=1_000_000.0, step_entered_at=1_000_000.0 - age_s,
        started_at=1_000_000.0 - (CEILING_S + 1 if ceiling else age_s) if running else None, runner_alive=alive,
        repaired_at_rev=repaired, liveness=liveness, time_limit_s=100.0,
    )  # fmt: skip
    found = decide(facts, S)
    if ceiling:
        assert found is Decision.FAIL_AT_CEILING
    elif alive:
        assert found is Decision.RUNNER_ALIVE
    elif repaired != 4:
        assert found is Decision.REPAIR
    elif not past:
        waits = step == "waiting_for_capacity"
        assert found is (Decision.WAITS_FOR_CAPACITY if waits else Decision.WITHIN_LIMIT)
    elif status == "in_progress" and liveness is not Liveness.DEAD:
        assert found is Decision.INCONCLUSIVE
    else:
        assert found is Decision.FAIL


def _sweep(world: World, client: redis.Redis, settings: Settings) -> StuckTasks:
    s = settings
    control = Control(
        client, prefix=s.key_prefix, shards=s.shards, lease_s=s.lease_s, near_window_s=s.near_window_s,
        ring_grace_s=s.ring_grace_s,
    )  # fmt: skip
    return StuckTasks(
        world.database, control, Ringer(control, Hints()), s, lambda node, now: Liveness.DEAD, lambda: 100_000.0
    )


def test_stuck_tasks_of_every_page_are_repaired_then_failed(
    world: World, fake_redis: redis.Redis, settings: Settings
) -> None:
    """More tasks than a page: each is repaired in the first round and failed in the second, with its cleanup ensured."""
    for n in range(5):
        world.run(f"run-{n}", world.task(f"task-{n}", run_id=f"run-{n}"), step="node_selection")
    sweep = _sweep(world, fake_redis, dataclasses.replace(settings, sweep_page=2))
    memory = Memory()
    decided: list[str] = []
    for _ in range(2):
        for _ in range(3):
            done = sweep(memory)
            assert done["failed"] == 0
            decided += [kind.value for kind in Decision for _ in range(done.get(kind.value, 0))]
        fake_redis.flushall()
    assert decided == ["repair"] * 5 + ["fail"] * 5
    with world.database.read() as tx:
        assert tx.execute(select(Task.status).distinct()).scalars().all() == ["failed"]
        assert tx.execute(select(Run.step).distinct()).scalars().all() == ["cleanup"]
    sweep(memory)
    assert set(memory.state["repaired"]) == {f"run-{n}" for n in range(5)}
    world.write(lambda tx: tx.execute(update(Run).values(finished_at=2.0)))
    sweep(memory)
    assert memory.state["repaired"] == {}


def test_a_live_runner_is_left_alone_however_old(world: World, fake_redis: redis.Redis, settings: Settings) -> None:
    """Control state at the row's rev and an alarm that is not overdue: skipped."""
    row = world.run("run-1", world.task("task-1", run_id="run-1"), step="node_selection")
    sweep = _sweep(world, fake_redis, settings)
    sweep.control.ensure([row])
    memory = Memory(state={"repaired": {"run-1": 0}})
    assert sweep(memory)["runner_alive"] == 1
    fake_redis.hset(sweep.control.run_key("run-1"), "rev", 9)
    assert memory.state["repaired"] == {}  # the repair worked: a later death gets one of its own
    assert sweep(memory)["repair"] == 1
    fake_redis.flushall()
    assert sweep(memory)["fail"] == 1


def test_a_bad_outbox_row_strands_no_other(world: World) -> None:
    """It is tried again with growing delay; a row is done only after its consumer returned."""
    now = [100.0]
    given: list[Any] = []

    def consumer(payload: Any) -> None:
        with world.database.read() as tx:
            assert tx.execute(select(OutboxRow.done_at).where(OutboxRow.kind == "good")).scalars().first() is None
        given.append(payload["n"])

    for kind in ("unknown", "good"):
        world.write(partial(promise, kind=kind, payload={"n": kind}, at=100.0))
    handlers = {"good": consumer}
    assert drain_outbox(world.database, handlers, lambda: now[0], 10) == {"done": 1, "failed": 1, "skipped": 0}
    assert drain_outbox(world.database, handlers, lambda: now[0], 10) == {"done": 0, "failed": 0, "skipped": 1}
    delays = []
    for _ in range(4):
        with world.database.read() as tx:
            row = tx.execute(select(OutboxRow.next_at, OutboxRow.done_at).where(OutboxRow.kind == "unknown")).one()
        assert row.done_at is None
        delays.append(row.next_at - now[0])
        now[0] = row.next_at
        assert drain_outbox(world.database, handlers, lambda: now[0], 10)["failed"] == 1
    assert delays == [5.0, 10.0, 20.0, 40.0] and given == ["good"]


def test_an_outbox_row_that_fails_keeps_its_last_error_and_no_secret(world: World, logs: list[Any]) -> None:
    """It is listed until it succeeds, with what it is about, as the items of other sweeps are; done, it is gone."""
    now, errors = [100.0], [ValueError("no postgresql://u:s3cret@h/db"), NotFound("no task task-1", code="gone")]

    def consumer(_payload: Any) -> None:
        if errors:
            raise errors.pop(0)

    world.write(partial(promise, kind="rerun_task", payload={"task_id": "task-1"}, at=100.0, owner_id=OWNER))
    seen = []
    for _ in range(3):
        drain_outbox(world.database, {"rerun_task": consumer}, lambda: now[0], 10)
        seen.append(failing_rows(world.database))
        now[0] += 60.0
    assert [[(one["item"], one["failures"], one["error"]["code"]) for one in found] for found in seen] == [
        [("rerun_task task-1", 1, "unexpected")], [("rerun_task task-1", 2, "gone")], [],
    ]  # fmt: skip
    assert seen[0][0]["error"]["message"] == "ValueError: no postgresql://u:***@h/db" and "s3cret" not in str(logs)


def test_a_row_for_which_it_is_too_early_is_no_failure(world: World) -> None:
    """It is asked for again as long as it takes, and the sweep is well; a failure after it counts as the first."""
    now, early = [100.0], [True]

    def consumer(payload: Any) -> None:
        if early[0]:
            raise Postponed
        raise ValueError(payload)

    world.write(partial(promise, kind="later", payload={}, at=100.0))
    for _ in range(3):
        found = run_sweep(
            world.database, "outbox", lambda _: drain_outbox(world.database, {"later": consumer}, lambda: now[0], 10),
            lambda: now[0],
        )  # fmt: skip
        assert found == {"done": 1, "failed": 0, "skipped": 0}
        now[0] += 1.0
    early[0] = False
    drain_outbox(world.database, {"later": consumer}, lambda: now[0], 10)
    with world.database.read() as tx:
        assert tx.execute(select(OutboxRow.next_at)).scalar_one() - now[0] == 5.0
    assert [one["failures"] for one in failing_rows(world.database)] == [1]
    now[0], early[0] = now[0] + 5.0, True
    drain_outbox(world.database, {"later": consumer}, lambda: now[0], 10)
    assert failing_rows(world.database) == [], "it is waited for again, which is no failure"


def test_pruning_deletes_only_what_ended_long_ago(world: World) -> None:
    """Signals, errors and keys of old ended runs and tasks, and old done outbox rows; nothing of open or recent ones."""
    ages = {"old": ("failed", 10.0), "new": ("failed", 90.0), "open": ("queued", None)}
    for name, (status, ended) in ages.items():
        fields = {} if ended is None else {"completed_at": ended}
        world.run(f"run-{name}", world.task(f"task-{name}", status, **fields))

        def work(tx: Any, name: str = name, ended: float | None = ended) -> None:
            tx.execute(update(Run).where(Run.id == f"run-{name}").values(finished_at=ended))
            tx.execute(
                insert(SignalRow).values(run_id=f"run-{name}", name="n", subject="", payload={}, recorded_at=1.0)
            )
            tx.execute(
                insert(ErrorRow).values(
                    owner_id=OWNER, run_id=f"run-{name}", step="s", attempt=1, code="c", error={}, at=1.0
                )
            )
            remember_idempotency(tx, OWNER, name, "h", f"task-{name}", 1.0)
            promise(tx, name, {}, 1.0)
            tx.execute(update(OutboxRow).where(OutboxRow.kind == name).values(done_at=ended))

        world.write(work)
    prune(world.database, now=100.0, keep_s=50.0, limit=100)
    with world.database.read() as tx:
        assert set(tx.execute(select(SignalRow.run_id)).scalars()) == {"run-new", "run-open"}
        assert set(tx.execute(select(ErrorRow.run_id)).scalars()) == {"run-new", "run-open"}
        assert set(tx.execute(select(IdempotencyKey.key)).scalars()) == {"new", "open"}
        assert set(tx.execute(select(OutboxRow.kind)).scalars()) == {"new", "open"}
        assert tx.execute(select(func.count()).select_from(Run)).scalar_one() == 3
        assert tx.execute(select(func.count()).select_from(Task)).scalar_one() == 3


def test_failed_attempts_are_deleted_by_age_also_of_runs_that_are_not_over(world: World, settings: Settings) -> None:
    """A run that stays open for months does not gather them; what is younger stays, whichever page it is on."""
    world.run("run-open", world.task("task-open", "queued"))
    attempts = [
        {"owner_id": OWNER, "run_id": "run-open", "step": "s", "attempt": n, "code": "c", "error": {}, "at": float(n)}
        for n in range(1, 11)
    ]
    world.write(lambda tx: tx.execute(insert(ErrorRow), attempts))
    found = prune_all(world.database, dataclasses.replace(settings, errors_after_s=50.0, sweep_page=3), 57.5)
    assert found["errors_deleted"] == 7
    with world.database.read() as tx:
        assert list(tx.execute(select(ErrorRow.attempt).order_by(ErrorRow.id)).scalars()) == [8, 9, 10]


def test_the_ledger_counts_failures_and_keeps_the_last_success(world: World) -> None:
    """A sweep that raises is counted and raised again; its cursor stays; the next success resets the count."""

    def good(memory: Memory) -> dict[str, Any]:
        memory.cursor, memory.state["n"] = memory.cursor + "x", memory.state.get("n", 0) + 1
        return {"cursor": memory.cursor, "n": memory.state["n"]}

    def bad(memory: Memory) -> dict[str, Any]:
        memory.cursor = "lost"
        raise ValueError("bad")

    assert last_success_at(world.database, "s") is None
    assert run_sweep(world.database, "s", good, lambda: 5.0)["n"] == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"):
            run_sweep(world.database, "s", bad, lambda: 9.0)
    with world.database.read() as tx:
        row = tx.execute(select(Sweep.failures, Sweep.last_success_at, Sweep.last_started_at)).one()
    assert tuple(row) == (2, 5.0, 9.0)
    assert run_sweep(world.database, "s", good, lambda: 11.0) == {"cursor": "xx", "n": 2}
    assert last_success_at(world.database, "s") == 11.0
    with world.database.read() as tx:
        assert tx.execute(select(Sweep.failures)).scalar_one() == 0


def test_the_history_of_what_ended_very_long_ago_goes_and_of_nothing_else(world: World) -> None:
    """An ended task goes with its runs and events; a recent one stays, and one whose last run still cleans up."""
    for name, ended, run_over in (("old", 10.0, True), ("new", 90.0, True), ("cleaning", 10.0, False)):
        world.run(f"run-{name}", world.task(f"task-{name}", "failed", completed_at=ended))

        def work(tx: Any, name: str = name, at: float | None = ended if run_over else None) -> None:
            tx.execute(update(Run).where(Run.id == f"run-{name}").values(finished_at=at))
            append_event(
                tx, owner_id=OWNER, subject_kind="task", subject_id=f"task-{name}", run_id=f"run-{name}", kind="k",
                actor="a", at=1.0,
            )  # fmt: skip
            remember_idempotency(tx, OWNER, name, "h", f"task-{name}", 1.0)

        world.write(work)
    assert prune_history(world.database, now=100.0, keep_s=0.0, limit=10) == {"tasks": 0, "nodes": 0, "own_runs": 0}
    assert prune_history(world.database, now=100.0, keep_s=50.0, limit=10)["tasks"] == 1
    with world.database.read() as tx:
        assert set(tx.execute(select(Task.id)).scalars()) == {"task-new", "task-cleaning"}
        assert set(tx.execute(select(Run.id)).scalars()) == {"run-new", "run-cleaning"}
        assert set(tx.execute(select(Event.subject_id)).scalars()) == {"task-new", "task-cleaning"}
        assert set(tx.execute(select(IdempotencyKey.key)).scalars()) == {"new", "cleaning"}


def test_pruning_goes_on_until_nothing_old_is_left_and_touches_no_run_twice(world: World, settings: Settings) -> None:
    """More than a page ends between two sweeps: pages follow each other, and what is pruned is not looked at again."""
    for number in range(7):
        world.run(f"run-{number}", world.task(f"task-{number}", "failed", completed_at=10.0))
    world.write(lambda tx: tx.execute(update(Run).values(finished_at=10.0)))
    few = dataclasses.replace(settings, sweep_page=2, prune_after_s=50.0, history_after_s=0.0)
    assert prune_all(world.database, few, 100.0)["runs"] == 7
    assert prune_all(world.database, few, 100.0)["runs"] == 0


def test_no_history_is_deleted_before_what_belongs_to_it_is_pruned(world: World, settings: Settings) -> None:
    """A shorter time for the history than for logs and tokens would leave tokens whose workspace nobody knows."""
    world.run("run-1", world.task("task-1", "failed", completed_at=10.0))
    world.write(lambda tx: tx.execute(update(Run).values(finished_at=10.0)))
    short = dataclasses.replace(settings, prune_after_s=200.0, history_after_s=50.0)
    assert prune_all(world.database, short, 100.0)["tasks"] == 0
    done = prune_all(world.database, short, 300.0)
    assert (done["runs"], done["tasks"]) == (1, 1)
