"""An operation costs what its budget says, counted on real servers; no more, and no less than the table claims."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskflow.bootstrap import App, bootstrap
from taskflow.db.models import Run
from taskflow.db.runs import get_run, record_signal
from taskflow.engine.outcomes import Advance, AwaitSignal, Done, Outcome, Snooze
from taskflow.engine.pipeline import Pipeline, Step, StepContext
from taskflow.engine.store import RunRow
from taskflow.errors import StepError
from taskflow.service import admission
from taskflow.settings import Settings
from tests.budgets.counting import Cost, Counter, CountingPublisher, CountingRedis
from tests.budgets.table import BUDGET, PARKED_REDIS_BYTES, PARKED_SQL_BYTES, rendered
from tests.conftest import ValkeyDatabase
from tests.support.own_pipeline import insert_runs

#: Before something is counted it is done so often: psycopg prepares a statement, and redis-py loads a script, on the way.
_WARM = 8
_SPEC = {
    "repository": "/srv/repository", "command": ["true"], "title": "t", "env": {}, "secrets": {}, "labels": {},
    "push": False, "time_limit_s": 100.0, "priority": 0,
}  # fmt: skip


def _go(ctx: StepContext) -> Outcome:
    return Advance(ctx.next_step, {ctx.run.step: ctx.attempt})


def _never(ctx: StepContext, error: StepError | None = None) -> Outcome:
    raise AssertionError("nothing here fails or is cancelled")


def _pipeline(name: str, *steps: Callable[[StepContext], Outcome], guarded: bool = False) -> Pipeline:
    table = tuple(Step(f"step_{number}", step, guarded=guarded) for number, step in enumerate(steps))
    return Pipeline(name, 1, table, frozenset(), _never, _never)


def _end(ctx: StepContext) -> Outcome:
    return Done({"answer": 42})


PIPELINES = {
    pipeline.name: pipeline
    for pipeline in (
        _pipeline("one", _end),
        _pipeline("four", _go, _go, _go, _end),
        _pipeline("five", _go, _go, _go, _go, _end),
        _pipeline("guarded_two", _go, _end, guarded=True),
        _pipeline("guarded_three", _go, _go, _end, guarded=True),
        _pipeline("near", lambda ctx: Snooze(3.0)),
        _pipeline("far", lambda ctx: Snooze(7200.0)),
        _pipeline("waits", lambda ctx: AwaitSignal("go", poll_s=7200.0)),
    )
}


class Bench:
    """An installation whose costs are counted."""

    def __init__(self, settings: Settings, valkey: ValkeyDatabase) -> None:
        client = CountingRedis.from_url(valkey.url)
        assert isinstance(client, CountingRedis)
        self.client = client
        publisher = CountingPublisher()
        self.app: App = bootstrap(settings, client=self.client, publisher=publisher)
        self.app.pipelines.update(PIPELINES)
        made = self.app.service.accounts.create_token(name="budget")
        self.owner_id = made["owner_id"]
        self.caller = self.app.service.accounts.authenticate(made["token"], "api")
        self._counter = Counter(self.app.database.engine, self.client, publisher)
        self.app.pump.tick()  # the first look at a store reconciles it

    def runs(self, name: str, count: int) -> list[RunRow]:
        """New runs of a pipeline, due."""
        now = self.app.control.now()
        rows = insert_runs(self.app, self.owner_id, PIPELINES[name], [{} for _ in range(count)], now=now)
        self.app.control.ensure(rows)
        return rows

    def turn(self, name: str) -> Cost:
        """The cost of the first turn of a run of this pipeline."""
        *warm, counted = self.runs(name, _WARM + 1)
        for row in warm:
            self.app.runner.turn(row.id)
        return self.cost(lambda: self.app.runner.turn(counted.id))

    def cost(self, work: Callable[[], Any]) -> Cost:
        """The cost of ``work``."""
        with self._counter.counted() as cost:
            work()
        return cost

    def signal(self, row: RunRow) -> None:
        """What every report of a node does with the run it is about."""

        def work(tx: Any) -> None:
            get_run(tx, row.id, lock=True)
            record_signal(tx, row.id, "go", "it", {}, now=1.0)

        self.app.database.write(work)
        self.app.ringer.ring([row.id])

    def submit(self, key: str | None = None) -> None:
        """One task."""
        self.app.service.tasks.submit(self.caller, _SPEC, idempotency_key=key)


@pytest.fixture
def bench(
    database_url: str, valkey: ValkeyDatabase, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    """On each of the two databases, with a real Valkey."""
    monkeypatch.setattr(admission, "_BELIEVED_S", 3600.0)
    # Nothing that goes by time comes between on a slow machine: renewals, rings again, the stand-in for the rescue, and
    # that the worker lives.
    monkeypatch.setattr("taskflow.bootstrap.SAYS_EVERY_S", 3600.0)
    calm = dataclasses.replace(settings, lease_s=30.0, ring_grace_s=10.0, rescue_interval_s=3600.0)
    made = Bench(dataclasses.replace(calm, database_url=database_url, redis_url=valkey.url), valkey)
    yield made
    made.app.close()


def _costs(bench: Bench) -> dict[str, tuple[int, ...]]:
    parked = bench.runs("waits", _WARM + 1)
    for row in parked:
        bench.app.runner.turn(row.id)
    for row in parked[1:]:
        bench.signal(row)
        bench.submit()
        bench.submit(row.id)
    found: dict[str, tuple[int, ...]] = {
        "submit": bench.cost(bench.submit).counts(),
        "submit_with_key": bench.cost(lambda: bench.submit("key")).counts(),
        "signal": bench.cost(lambda: bench.signal(parked[0])).counts(),
        "pump": bench.cost(bench.app.pump.tick).counts(),
    }
    four, five = bench.turn("four").counts(), bench.turn("five").counts()
    found["step"] = tuple(more - less for more, less in zip(five, four, strict=True))
    two, three = bench.turn("guarded_two").counts(), bench.turn("guarded_three").counts()
    found["guarded_step"] = tuple(more - less for more, less in zip(three, two, strict=True))
    turns = {"finish": "one", "snooze": "near", "far_snooze": "far", "park": "waits"}
    far = bench.turn("far").counts()
    # What ends a turn is what it costs without its beginning; to sleep on is one call of the control state.
    found["first_turn"] = (*far[:3], far[3] - 1, far[4])
    for name, pipeline in turns.items():
        whole = bench.turn(pipeline).counts()
        found[name] = tuple(all_ - begin for all_, begin in zip(whole, found["first_turn"], strict=True))
    return found


def test_every_operation_keeps_to_its_budget(bench: Bench) -> None:
    """PostgreSQL: all five counts. SQLite is called, not asked over a socket: commits, Redis and Celery count there."""
    found = _costs(bench)
    if bench.app.database.counts_round_trips:
        assert found == {name: budget.counts() for name, budget in BUDGET.items()}
    else:
        kept = {name: (counts[1], *counts[3:]) for name, counts in found.items()}
        assert kept == {name: (one.commits, one.redis_trips, one.publishes) for name, one in BUDGET.items()}


def test_each_step_has_a_commit_of_its_own(bench: Bench) -> None:
    """Steps of one turn are as durable as steps of many."""
    assert bench.turn("five").commits == 5


def test_a_parked_run_is_small(bench: Bench) -> None:
    """In Redis its hash and its place in the index, in PostgreSQL its row; in workers nothing at all."""
    *_, row = bench.runs("waits", 100)
    bench.app.runner.turn(row.id)
    control, client = bench.app.control, bench.client
    shard = control.shard_of(row.id)
    index_bytes = client.memory_usage(control.alarms_key(shard))
    run_bytes = client.memory_usage(control.run_key(row.id))
    assert index_bytes is not None and run_bytes is not None, "both are there"
    assert run_bytes + index_bytes / client.zcard(control.alarms_key(shard)) < PARKED_REDIS_BYTES
    assert not client.exists(control.lease_key(row.id))
    if bench.app.database.counts_round_trips:
        with bench.app.database.read() as tx:
            size = tx.exec_driver_sql("SELECT pg_column_size(runs.*) FROM runs WHERE id = %s", (row.id,)).scalar_one()
        assert size < PARKED_SQL_BYTES


def test_the_documentation_shows_the_budget() -> None:
    """The table in the documentation is this one."""
    text = (Path(__file__).parents[2] / "docs" / "explanation" / "performance.md").read_text(encoding="utf-8")
    assert rendered() in text


def test_a_step_changes_no_column_that_an_index_holds() -> None:
    """PostgreSQL then writes the new row beside the old one and leaves every index alone."""
    by_step = {"step", "rev", "step_entered_at", "deadline_at", "awaiting", "wake_at", "results"}
    for index in Run.metadata.tables["runs"].indexes:
        assert not by_step & {column.name for column in index.columns}, index.name
        where = str(index.dialect_options["postgresql"]["where"])
        assert not by_step & set(re.findall(r"\w+", where)), index.name
