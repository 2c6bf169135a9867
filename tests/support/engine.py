"""A toy installation of the engine: pipelines of functions, a real database, a real or in-process Redis, moved time.

Hints go into a list instead of a broker; ``Rig.run_alarms`` fires them in order and moves the time to the next alarm
when none is left, so that hours of a run pass in milliseconds. Crashes are raised at the runner's checkpoints.
"""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
import time_machine
from sqlalchemy import insert, select

from taskflow.db.models import ErrorRow, Event, Owner, Run
from taskflow.db.runs import RunStore, get_run, insert_run, record_signal, request_cancel
from taskflow.db.session import Database, make_engine
from taskflow.engine.alarms import Pump, Ringer
from taskflow.engine.control import Alarm, Control
from taskflow.engine.lease import Renewer
from taskflow.engine.outcomes import Advance, Done, Outcome
from taskflow.engine.pipeline import Pipeline, Step, StepContext
from taskflow.engine.rescue import Rescue, Watch
from taskflow.engine.runner import Runner
from taskflow.engine.store import RunRow
from taskflow.errors import StepError
from taskflow.ids import RunId, new_run_id
from taskflow.settings import Settings

OWNER = "owner-toy"


class SimulatedCrash(BaseException):
    """The process is gone: nothing catches it, nothing after it runs."""


class WallClock:
    """Every reading follows the system's time, which time-machine moves (it does not move ``time.monotonic``)."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """The same: nobody sets the time back here."""
        return time.time()

    def sleep(self, seconds: float) -> None:  # the name is the protocol's
        """Nobody waits in virtual time."""


class Hints:
    """Stands in for the broker: keeps what was published, until it is fired, lost or repeated."""

    def __init__(self) -> None:
        self.alarms: list[Alarm] = []
        self.published: list[Alarm] = []
        self.waiting = 0
        self.broken = False

    def publish(self, alarm: Alarm) -> None:
        """Keep it; raise while the broker is away."""
        if self.broken:
            raise ConnectionError("no broker")
        self.alarms.append(alarm)
        self.published.append(alarm)

    def backlog(self) -> int:
        """What the test says waits in the queue."""
        return self.waiting


def toy(
    *steps: Step,
    name: str = "toy",
    version: int = 1,
    on_cancel: Callable[[StepContext], Outcome] | None = None,
    on_failure: Callable[[StepContext, StepError], Outcome] | None = None,
) -> Pipeline:
    """A pipeline of ``steps`` and a closing step ``cleanup`` that ends the run; failures and cancels lead there."""

    def failed(ctx: StepContext, error: StepError) -> Outcome:
        said = {**error.as_dict(), "step": ctx.run.step}
        return Done(error=said) if ctx.run.step == "cleanup" else Advance("cleanup", error=said)

    table = steps if any(step.name == "cleanup" for step in steps) else (*steps, Step("cleanup", lambda ctx: Done()))
    return Pipeline(
        name, version, tuple(table), frozenset({"cleanup"}),
        on_cancel or (lambda ctx: Advance("cleanup", {"cancelled": True}, reason=ctx.run.cancel_reason)),
        on_failure or failed,
    )  # fmt: skip


def advance(ctx: StepContext) -> Outcome:
    """A step that goes on and leaves its name in the results."""
    return Advance(ctx.next_step, {ctx.run.step: ctx.attempt})


@dataclass
class External:
    """Something outside that honours idempotency keys: ``calls`` counts requests, ``done`` what really happened."""

    calls: Counter[str] = field(default_factory=Counter)
    done: set[str] = field(default_factory=set)

    def do(self, key: str) -> None:
        """One request with an idempotency key."""
        self.calls[key] += 1
        self.done.add(key)


class Rig:
    """One installation. ``worker()`` makes another worker of it; ``run_alarms`` plays broker, pump and time."""

    def __init__(self, url: str, client: redis.Redis, settings: Settings, *pipelines: Pipeline, seed: int = 1) -> None:
        self.clock = WallClock()
        self.settings = settings
        self.database = Database(make_engine(url), self.clock)
        self.client = client
        self.hints = Hints()
        self.control = self.new_control(client)
        self.ringer = Ringer(self.control, self.hints)
        self.pipelines = {pipeline.name: pipeline for pipeline in pipelines}
        self.store = RunStore(self.database, self.pipelines)
        self.rescue = Rescue(self.store, self.control, self.ringer, page=settings.rescue_page)
        self.watch = Watch(self.rescue, self.store, self.control, self.clock)
        self.pump = self.new_pump()
        self.rng = random.Random(seed)
        self.hung: list[str] = []
        self.renewer = Renewer(self.control, self.clock, self.hung.append)
        # Renewal is called by the tests: its thread would go by real time.
        self.renewer._thread = threading.current_thread()
        self.runner = self.worker()
        self.traveller: Any = None
        if self.runs_of_owner() is None:
            self.database.write(
                lambda tx: tx.execute(insert(Owner).values(id=OWNER, name=OWNER, created_at=self.clock.now()))
            )

    def runs_of_owner(self) -> str | None:
        """The owner, if a rig on this database made it already."""
        with self.database.read() as tx:
            return tx.execute(select(Owner.id).where(Owner.id == OWNER)).scalar()

    def new_control(self, client: redis.Redis) -> Control:
        """Typed access to the control state through ``client``."""
        s = self.settings
        return Control(
            client, prefix=s.key_prefix, shards=s.shards, lease_s=s.lease_s, near_window_s=s.near_window_s,
            ring_grace_s=s.ring_grace_s,
        )  # fmt: skip

    def new_pump(self, on_tick: Callable[[Any], Any] = lambda answers: None) -> Pump:
        """A pump like that of one more worker."""
        return Pump(
            self.control, self.ringer, self.hints, interval_s=self.settings.pump_interval_s,
            batch=self.settings.pump_batch, backlog_max=8, on_tick=on_tick,
        )  # fmt: skip

    def worker(self, settings: Settings | None = None, pipelines: Sequence[Pipeline] = ()) -> Runner:
        """Another worker; ``settings`` and ``pipelines`` may be those of another release."""
        table = {p.name: p for p in pipelines} or self.pipelines
        return Runner(
            self.store, self.control, self.ringer, self.renewer, table, settings or self.settings, self.clock, self.rng
        )

    def configure(self, **changes: Any) -> None:
        """Other settings for the worker."""
        self.settings = dataclasses.replace(self.settings, **changes)
        self.runner = self.worker()

    # --- runs

    def insert(self, pipeline: str = "toy", *, subject: str | None = None, **fields: Any) -> RunId:
        """A run in SQL alone."""
        run_id = new_run_id()
        table = self.pipelines[pipeline]
        now = self.clock.now()
        first = table.step(table.first)
        assert first is not None
        row = RunRow(
            id=run_id, pipeline=pipeline, version=table.version, subject_kind="toy", subject_id=subject or run_id,
            number=1, owner_id=OWNER, step=table.first, rev=0, step_entered_at=now, created_at=now,
        )  # fmt: skip
        row = dataclasses.replace(row, deadline_at=first.deadline_after(row, now), **fields)
        self.database.write(lambda tx: insert_run(tx, row))
        return run_id

    def start(self, pipeline: str = "toy", **fields: Any) -> RunId:
        """A run in SQL, then in Redis, then rung."""
        run_id = self.insert(pipeline, **fields)
        self.ringer.publish(self.control.ensure([self.row(run_id)]))
        return run_id

    def row(self, run_id: RunId) -> RunRow:
        """The run as SQL has it."""
        with self.database.read() as tx:
            found = get_run(tx, run_id)
        assert found is not None
        return found

    def result(self, run_id: RunId) -> Any:
        """What ``Done`` left on the row."""
        with self.database.read() as tx:
            return tx.execute(select(Run.result).where(Run.id == run_id)).scalar_one()

    def state(self, run_id: RunId) -> dict[str, Any]:
        """The control state of the run."""
        return self.control.describe(run_id)

    def signal(self, run_id: RunId, name: str, payload: Mapping[str, Any] | None = None, *, subject: str = "") -> bool:
        """Record a signal, then ring: whether it was the first."""
        first = self.record(run_id, name, payload, subject=subject)
        self.ringer.ring([run_id])
        return first

    def record(self, run_id: RunId, name: str, payload: Mapping[str, Any] | None = None, *, subject: str = "") -> bool:
        """Record a signal without ringing, as a process that died in between."""

        def work(tx: Any) -> bool:
            get_run(tx, run_id, lock=True)
            return record_signal(tx, run_id, name, subject, payload or {}, now=self.clock.now())[0]

        return self.database.write(work)

    def cancel(self, run_id: RunId, reason: str = "enough", *, ring: bool = True) -> bool:
        """Ask the run to cancel."""
        asked = self.database.write(
            lambda tx: request_cancel(tx, run_id, actor="ada", reason=reason, now=self.clock.now())
        )
        if ring:
            self.ringer.ring([run_id])
        return asked

    def events(self, run_id: RunId) -> list[tuple[str, str | None]]:
        """The run's history: (kind, step)."""
        with self.database.read() as tx:
            rows = tx.execute(select(Event.kind, Event.step).where(Event.run_id == run_id).order_by(Event.seq)).all()
        return [(row.kind, row.step) for row in rows]

    def errors(self, run_id: RunId) -> list[Any]:
        """Rows of the errors table of the run."""
        with self.database.read() as tx:
            return list(tx.execute(select(ErrorRow.__table__).where(ErrorRow.run_id == run_id).order_by("id")).all())

    # --- time and alarms

    def shift(self, seconds: float) -> None:
        """Move the time of everything (in-process Redis only)."""
        self.traveller.shift(seconds)

    def fire(self, runner: Runner | None = None) -> str:
        """Fire the oldest hint whose countdown is over or not: the countdown is waited for in virtual time."""
        alarm = self.hints.alarms.pop(0)
        if alarm.countdown_s > 0:
            self.shift(alarm.countdown_s + 0.001)
        return (runner or self.runner).turn(alarm.run_id, alarm.generation)

    def next_alarm_at(self) -> float | None:
        """When the index must be looked at next; None when it is empty."""
        scores: list[float] = []
        for shard in range(self.control.shards):
            first: Any = self.client.zrange(self.control.alarms_key(shard), 0, 0, withscores=True)
            scores += [score for _, score in first]
        return min(scores) if scores else None

    def run_alarms(self, *, turns: int = 200, until: Callable[[], bool] = lambda: False, rescue: bool = False) -> int:
        """Fire hints, else move to the next alarm and pump, until nothing is left or ``until``; the turns taken."""
        taken = 0
        while not until():
            assert taken < turns, f"no end after {turns} turns"
            if self.hints.alarms:
                self.fire()
                taken += 1
                continue
            if rescue:
                self.rescue.page()
                if self.hints.alarms:
                    continue
            at = self.next_alarm_at()
            if at is None:
                break
            self.shift(max(0.0, at - self.clock.now()) + 0.001)
            assert self.pump.tick() > 0, "an alarm was due and the pump rang nothing"
        return taken

    def close(self) -> None:
        """Let go of the database."""
        self.database.dispose()


def moved_time() -> Any:
    """Time that stands still until it is shifted."""
    return time_machine.travel(1_700_000_000.0, tick=False)
