"""``Kit``: one installation for a test, with the workers that a test makes die."""

from __future__ import annotations

import atexit
import dataclasses
import math
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import fakeredis
import redis
import time_machine
from sqlalchemy import Engine, event, select

from taskflow.bootstrap import App, bootstrap
from taskflow.db.models import Base, Run
from taskflow.db.session import Database, make_engine
from taskflow.ids import RunId
from taskflow.pipelines.registry import Declared
from taskflow.pipelines.tools import Callback
from taskflow.service.accounts import Caller
from taskflow.service.core import Service
from taskflow.settings import Settings
from taskflow.testing.runs import KitRun
from taskflow.testing.virtual import Broker, Crash, FollowingClock, Planner

START = 1_700_000_000.0
#: So many turns, or places passed, without a moment of time in between are taken for a run that goes round in circles.
_TURNS_MAX, _PLACES_MAX = 1000, 3000
#: How far time jumps when nothing is planned: the pump looks, and rebuilds what was lost.
_IDLE_JUMP_S = 30.0


class Kit:
    """One installation with ``pipelines``, used in a ``with`` block. ``settings``: other ones than the defaults.

    Inside of the block ``time.time()`` is the virtual time for everybody, your steps included. ``start``, ``signal``,
    ``cancel`` and ``advance`` return when everything that is due has happened.
    """

    def __init__(self, *pipelines: Declared, **settings: Any) -> None:
        self._pipelines = pipelines
        self._overrides = settings
        self._apps: list[App] = []
        self._crash_at: Callable[[str], bool] = lambda place: False
        #: The places that were passed, in order: ``fired``, ``perform:<step>``, ``performed:<step>``,
        #: ``applied:<step>``, ``committed:<step>``, ``continued``.
        self.places: list[str] = []
        #: Where workers died.
        self.crashes: list[str] = []

    def __enter__(self) -> Kit:
        self._directory = tempfile.TemporaryDirectory(prefix="taskflow-kit-")
        path = Path(self._directory.name)
        url = f"sqlite:///{path / 'taskflow.db'}"
        defaults: dict[str, Any] = {
            "data_dir": str(path),
            "database_url": url,
            "secret_key": "only-for-tests-" + "0" * 32,
        }
        # Each look of the backup costs a test more than its turns.
        defaults |= {"shards": 1, "rescue_interval_s": 600.0}
        self.settings = dataclasses.replace(Settings(), **{**defaults, **self._overrides})
        self._traveller = time_machine.travel(START, tick=False)
        self._travel = self._traveller.start()
        try:
            shutil.copyfile(_template(), path / "taskflow.db")
            self._redis: redis.Redis = fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=False)
            self._broker, self._planner = Broker(), Planner(time.time)
            self._start_worker()
            token = self.service.accounts.create_token(owner="tester", name="kit")["token"]
            self.caller: Caller = self.service.accounts.authenticate(token, "api")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._traveller.stop()
        for app in self._apps:
            app.close()
        self._directory.cleanup()

    @property
    def app(self) -> App:
        """The worker that lives now, wired."""
        return self._apps[-1]

    @property
    def service(self) -> Service:
        """The verbs of the product, as the API calls them."""
        return self.app.service

    @property
    def now(self) -> float:
        """Virtual seconds since the epoch."""
        return time.time()

    # --- runs

    def start(
        self,
        pipeline: str,
        given: Mapping[str, Any] | None = None,
        *,
        subject: str | None = None,
        idempotency_key: str | None = None,
    ) -> KitRun:
        """Start a run with the input ``given``. Raises what the API would answer, such as ``InvalidInput``."""
        run, _made = self.service.runs.start(
            self.caller, pipeline, given, subject=subject, idempotency_key=idempotency_key
        )
        self.settle()
        return KitRun(self, run["id"])

    def post(self, callback: Callback, data: Mapping[str, Any] | None = None, *, message_id: str = "") -> bool:
        """What an outside system does with the ``callback`` that a step gave it; whether the signal is new."""
        _, _, run_id, _, name = callback.url.rsplit("/", 4)
        outsider = self.service.runs.caller_of_callback(callback.token, run_id, name)
        said = self.service.runs.signal(outsider, run_id, name, data or {}, message_id=message_id)
        self.settle()
        return bool(said["recorded"])

    # --- time

    def after(self, delay_s: float, action: Callable[[], object]) -> None:
        """Let somebody outside do something in ``delay_s`` seconds."""
        self._planner.after(delay_s, lambda: (action(), None)[1])

    def settle(self) -> None:
        """Let everything happen that is due now; no time passes."""
        turns, most = 0, len(self.places) + _PLACES_MAX
        while turns < _TURNS_MAX and len(self.places) < most:
            turns += 1
            if self._planner.run_due():
                continue
            alarm = self._broker.take_due()
            if alarm is not None:
                self._turn(alarm.run_id, alarm.generation)
            elif not self.app.pump.tick():
                return
        raise AssertionError(f"no end after {turns} turns at one moment; the last place was {self.places[-1:]}")

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass, with everything that happens meanwhile at its time."""
        end = time.time() + seconds
        self.settle()
        while (left := end - time.time()) > 0:
            self._shift(min(left, self._to_next()))
            self.settle()

    def advance_until(
        self, predicate: Callable[[], object], description: str, *, limit_s: float = 7 * 86_400.0
    ) -> float:
        """Let time pass until ``predicate``; the virtual seconds it took.

        Raises ``AssertionError`` with ``description`` after ``limit_s``.
        """
        began = time.time()
        self.settle()
        while not predicate():
            to_next = self._to_next()
            if time.time() - began + to_next > limit_s:
                raise AssertionError(f"not within {limit_s:g} virtual seconds: {description}")
            self._shift(to_next)
            self.settle()
        return time.time() - began

    def _shift(self, seconds: float) -> None:
        self._travel.shift(max(0.001, seconds))

    def _to_next(self) -> float:
        """Seconds until the next thing happens; infinite when nothing will."""
        planned = [at for at, _, _ in self._broker.waiting]
        next_at = self._planner.next_at()
        planned += [] if next_at is None else [next_at]
        for shard in range(self.settings.shards):
            first: Any = self._redis.zrange(self.app.control.alarms_key(shard), 0, 0, withscores=True)
            planned += [float(score) for _, score in first]
        if planned:
            return min(planned) - time.time() + 0.001
        with self.app.database.read() as tx:
            is_open = tx.execute(select(Run.id).where(Run.finished_at.is_(None)).limit(1)).first() is not None
        return _IDLE_JUMP_S if is_open else math.inf

    # --- faults

    def crash_at(self, place: str, *, times: int = 1) -> None:
        """Let the worker die where it next passes ``place`` (see ``places``), ``times`` times; another one goes on.

        Code of your own dies at any other place by raising ``Crash``. What the dead worker had begun is taken up when
        its lease is over, so some seconds later.
        """
        left = times

        def reached(name: str) -> bool:
            nonlocal left
            hit = name == place and left > 0
            left -= hit
            return hit

        self._crash_at = reached

    def crash_at_number(self, number: int) -> None:
        """Let the worker die at the place of that number, counted from 0 as in ``places``."""
        self._crash_at = lambda place: len(self.places) == number + 1

    def lose_redis(self) -> None:
        """Empty Redis: control state and leases are gone, what is in SQL goes on."""
        self._redis.flushall()
        self._broker.waiting.clear()

    def _start_worker(self) -> None:
        """Another process: nothing but SQL, Redis and the broker is handed on."""
        clock = FollowingClock(self._travel)
        app = bootstrap(
            self.settings, publisher=self._broker, client=self._redis, clock=clock,
            database=Database(_engine(self.settings.database_url), clock), providers={}, pipelines=self._pipelines,
            rng=random.Random(len(self._apps)),  # noqa: S311
        )  # fmt: skip
        self._apps.append(app)

    def _turn(self, run_id: RunId, generation: str) -> None:
        def checkpoint(place: str) -> None:
            self.places.append(place)
            if self._crash_at(place):
                raise Crash(place)

        self.app.runner.checkpoint = checkpoint
        try:
            self.app.runner.turn(run_id, generation)
        except Crash as crash:
            self.crashes.append(str(crash))
            self._start_worker()


@cache
def _template() -> Path:
    """An empty database with the schema, made once for each process."""
    directory = tempfile.TemporaryDirectory(prefix="taskflow-kit-")
    atexit.register(directory.cleanup)
    path = Path(directory.name) / "taskflow.db"
    engine = make_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    engine.dispose()
    return path


def _engine(url: str) -> Engine:
    """A database that outlives the death of workers, but needs not that of this process: nothing waits for a disk."""
    engine = make_engine(url)

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    return engine
