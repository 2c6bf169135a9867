"""The whole control plane in one process, on virtual time: the real ``App`` on SQLite and an in-process Redis, with
fake agents behind the real HTTP client. ``run_until`` plays workers, pump, sweeps and agents, in a fixed order.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fakeredis
import redis
import time_machine
from sqlalchemy import func, select

from taskflow.bootstrap import App, bootstrap
from taskflow.db.models import ErrorRow, Node, OutboxRow, Run, Task, Workspace
from taskflow.engine.meter import SILENT, Meter
from taskflow.ids import RunId
from taskflow.nodes import agent_client
from taskflow.nodes.providers.base import Provider
from taskflow.service import Caller
from taskflow.settings import Settings
from tests.support.fake_agent import FakeAgent, Plan
from tests.support.fake_provider import FakeProvider, Wire
from tests.support.keys import assert_no_keys_left
from tests.support.virtual import Broker, Crash, FollowingClock, Planner

START = 1_700_000_000.0
SPEC: dict[str, Any] = {"repository": "/srv/repo", "command": ["make", "hello"], "time_limit_s": 600.0}
#: How far time may jump when nothing is planned: sweeps get their turn.
_IDLE_JUMP_S = 30.0
#: The rescue is a backup of minutes here, so that what needs it for less is noticed as late.
RESCUE_EVERY_S = 60.0


class World:
    """Submit, cancel, crash, and let time pass. Made by ``world_of``."""

    def __init__(self, settings: Settings, travel: time_machine.Traveller) -> None:
        self.settings = settings
        self.travel = travel
        self.redis: redis.Redis = fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=False)
        self.broker = Broker()
        self.plan = Plan()
        self.planner = Planner(time.time)
        self.provider = FakeProvider(self.planner, self.plan)
        #: Makes another provider than the fake one behind the name "cloud", for each worker that starts from then on.
        self.cloud: Callable[[], Provider] | None = None
        self.wire = Wire(self.provider)
        #: What workers that start from then on tell of their work.
        self.meter: Meter = SILENT
        self.apps: list[App] = []
        self.crashes: list[str] = []
        self.turns: list[tuple[str, str]] = []
        #: Called with (run id, checkpoint) in every turn; raising ``Crash`` kills the worker there.
        self.at_checkpoint: Callable[[str, str], None] = lambda run_id, name: None
        self._sweeps_at = 0.0
        self._rescue_at = 0.0
        self.start_worker()
        self.app.check_installation()
        self.tokens: dict[str, str] = {}
        self.caller = self.caller_of("ada")

    # --- processes

    @property
    def app(self) -> App:
        """The process that lives now."""
        return self.apps[-1]

    @property
    def service(self) -> Any:
        """The verbs of the product."""
        return self.app.service

    def start_worker(self) -> None:
        """Another process takes over: nothing but SQL, Redis and the broker is handed on."""
        app = bootstrap(
            self.settings, publisher=self.broker, client=self.redis, clock=FollowingClock(self.travel),
            providers={"local": self.provider, "cloud": self.cloud() if self.cloud else self.provider},
            meter=self.meter,
        )  # fmt: skip
        app.runner._rng = random.Random(len(self.apps))
        self.apps.append(app)
        self.provider.service = app.service
        for agent in self.provider.agents.values():
            agent._service = app.service

    def turn(self, run_id: str, generation: str = "") -> str:
        """One turn in the living process; a crash there starts the next process."""

        def checkpoint(name: str) -> None:
            self.at_checkpoint(run_id, name)

        self.app.runner.checkpoint = checkpoint
        try:
            verdict = self.app.runner.turn(RunId(run_id), generation)
        except Crash as crash:
            self.crashes.append(str(crash))
            self.start_worker()
            verdict = "crashed"
        self.turns.append((run_id, verdict))
        return verdict

    def crash_at(self, checkpoint: str, run_id: str | None = None, *, times: int = 1) -> None:
        """Let the worker die at ``checkpoint`` (of this run), ``times`` times."""
        left = times

        def at(run: str, name: str) -> None:
            nonlocal left
            if name == checkpoint and left and run_id in (None, run):
                left -= 1
                raise Crash(name)

        self.at_checkpoint = at

    # --- time

    def run_until(self, predicate: Callable[[], Any], description: str, *, limit_s: float = 4 * 3600.0) -> float:
        """Let things happen until ``predicate``; the virtual seconds it took. Deterministic."""
        begin = time.time()
        while not predicate():
            if time.time() - begin > limit_s:
                raise AssertionError(f"not within {limit_s:g} virtual s: {description}")
            self._advance()
        return time.time() - begin

    def run_for(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        end = time.time() + seconds
        self.planner.after(seconds, lambda: None)
        self.run_until(lambda: time.time() >= end, "time passes", limit_s=seconds + 1)

    def _advance(self) -> None:
        if self.planner.run_due():
            return
        alarm = self.broker.take_due()
        if alarm is not None:
            self.turn(alarm.run_id, alarm.generation)
            return
        if self.app.pump.tick():
            return
        self._jump()
        self._sweep()

    def _jump(self) -> None:
        now = time.time()
        planned = [now + _IDLE_JUMP_S]
        planned += [at for at, _, _ in self.broker.waiting]
        next_at = self.planner.next_at()
        planned += [] if next_at is None else [next_at]
        for shard in range(self.settings.shards):
            first = self.redis.zrange(self.app.control.alarms_key(shard), 0, 0, withscores=True)
            planned += [float(entry[1]) for entry in first]
        if self.count(OutboxRow, OutboxRow.done_at.is_(None)):
            planned.append(self._sweeps_at)
        self.travel.shift(max(0.001, min(planned) - now))

    def _sweep(self) -> None:
        if time.time() < self._sweeps_at:
            return
        self._sweeps_at = time.time() + self.settings.outbox_interval_s
        if self.count(OutboxRow, OutboxRow.done_at.is_(None)):
            self.app.sweep("outbox")
        if any(spec.nodes_max for spec in self.app.tools.catalogue.providers):
            self.app.sweep("share_nodes")
        if time.time() >= self._rescue_at:
            self._rescue_at = time.time() + RESCUE_EVERY_S
            self.app.sweep("rescue")

    # --- people

    def caller_of(self, owner: str) -> Caller:
        """Somebody with a token of their own."""
        if owner not in self.tokens:
            self.tokens[owner] = self.service.accounts.create_token(owner=owner, name="test")["token"]
        found: Caller = self.service.accounts.authenticate(self.tokens[owner], "api")
        return found

    def submit(self, **spec: Any) -> dict[str, Any]:
        """A task, submitted."""
        task: dict[str, Any] = self.service.tasks.submit(self.caller, {**SPEC, **spec})[0]
        return task

    def task(self, task_id: str) -> dict[str, Any]:
        """The task as its owner sees it."""
        found: dict[str, Any] = self.service.tasks.get(self.caller, task_id)
        return found

    def cancel(self, task_id: str) -> None:
        """Ask for cancellation."""
        self.service.tasks.cancel(self.caller, task_id, "enough")

    def why(self, task_id: str) -> dict[str, Any]:
        """What it waits for."""
        found: dict[str, Any] = self.service.explain.why(self.caller, task_id)
        return found

    def events(self, task_id: str) -> list[dict[str, Any]]:
        """The task's history."""
        return list(self.service.events.of_task(self.caller, task_id, limit=1000))

    def statuses(self, task_id: str) -> list[str]:
        """The statuses it went through."""
        return [event["data"]["to"] for event in self.events(task_id) if event["kind"] == "status_changed"]

    def steps(self, task_id: str) -> list[str]:
        """The steps it went through, from the one after the first."""
        return [event["step"] for event in self.events(task_id) if event["kind"] == "step_entered"]

    # --- waiting for people's things

    def at_step(self, task: dict[str, Any], step: str) -> None:
        """Run until the task is at ``step``."""
        self.run_until(lambda: self.task(task["id"])["step"] == step, f"{task['id']} is at {step}")

    def finish(self, *tasks: dict[str, Any]) -> dict[str, Any]:
        """Run until all of it is over, cleanup included; the last task."""
        self.run_until(lambda: all(self.task(task["id"])["finished"] for task in tasks), "the tasks finish")
        return self.task(tasks[-1]["id"])

    def node(self) -> Any:
        """The newest node's row."""
        with self.app.database.read() as tx:
            return tx.execute(select(Node.__table__).order_by(Node.created_at.desc(), Node.id.desc()).limit(1)).first()

    def node_is(self, status: str) -> None:
        """Run until the newest node is ``status``."""

        def reached() -> bool:
            node = self.node()
            return node is not None and node.status == status

        self.run_until(reached, f"the node is {status}")

    @property
    def agent(self) -> FakeAgent:
        """The agent of the newest node."""
        return list(self.provider.agents.values())[-1]

    def run_row(self, task: dict[str, Any]) -> Any:
        """The row of the task's present run."""
        with self.app.database.read() as tx:
            run_id = tx.execute(select(Task.run_id).where(Task.id == task["id"])).scalar_one()
            return tx.execute(select(Run.__table__).where(Run.id == run_id)).one()

    def count(self, table: Any, *where: Any) -> int:
        """Rows of a table."""
        with self.app.database.read() as tx:
            return tx.execute(select(func.count()).select_from(table).where(*where)).scalar_one()

    def errors(self, run_id: str) -> list[str]:
        """Codes of the failed attempts of a run."""
        with self.app.database.read() as tx:
            rows = tx.execute(select(ErrorRow.code).where(ErrorRow.run_id == run_id).order_by(ErrorRow.id)).all()
        return [row.code for row in rows]

    # --- what must hold at the end

    def assert_settled(self) -> None:
        """Each effect happened once, one end for each task, and nothing is left on a node, in SQL or in Redis."""
        for agent in self.provider.agents.values():
            assert set(agent.created.values()) <= {1}, f"workspaces made twice: {agent.created}"
            assert set(agent.started.values()) <= {1}, f"sessions started twice: {agent.started}"
            assert not agent.workspaces, f"workspaces left on the node: {list(agent.workspaces)}"
        assert set(self.provider.bought.values()) <= {1}, f"servers bought twice: {self.provider.bought}"
        assert self.count(Workspace, Workspace.released_at.is_(None)) == 0
        for task in self.service.tasks.list(self.caller, limit=200)[0]:
            statuses = self.statuses(task["id"])
            assert statuses.count("in_progress") <= task["run_number"], statuses
            assert sum(status in ("completed", "failed", "cancelled") for status in statuses) == task["run_number"]
        self.dissolve()
        self.run_for(2 * self.settings.lease_s)  # a worker that died in the last line leaves its lease to run out
        assert_no_keys_left(self.redis, self.settings.key_prefix)

    def dissolve(self) -> None:
        """Destroy every node."""
        for node in self.service.nodes.list(self.caller):
            self.service.nodes.drain(self.caller, node["id"])
        self.run_until(lambda: not self.service.nodes.list(self.caller), "every node is destroyed")

    def close(self) -> None:
        """Let go of threads and connections."""
        for app in self.apps:
            app.runner._renewer._wake.set()
            app.database.dispose()
        self.redis.close()


@contextmanager
def world_of(path: Path, template: Path, monkeypatch: Any, **settings: Any) -> Iterator[World]:
    """A world of its own below ``path``, with ``settings`` other than the defaults."""
    shutil.copyfile(template, path / "taskflow.db")
    defaults = {
        "data_dir": str(path), "secret_key": "only-for-tests-" + "0" * 32, "key_prefix": "tf-test",
        "database_url": f"sqlite:///{path / 'taskflow.db'}", "node_warm_s": 120.0,
    }  # fmt: skip
    chosen = dataclasses.replace(Settings(), **{**defaults, **settings})
    with time_machine.travel(START, tick=False) as travel:
        world = World(chosen, travel)
        monkeypatch.setattr(agent_client, "requests", world.wire)
        try:
            yield world
        finally:
            world.close()
