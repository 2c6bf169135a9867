"""The scheduler of one simulated run: it owns time and decides, event by event, who goes on."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import fakeredis
import redis
import time_machine

from taskflow.bootstrap import bootstrap
from taskflow.clock import Clock
from taskflow.db.installation import agreed_shards
from taskflow.errors import TaskflowError
from taskflow.nodes.catalogue import Catalogue, Offer, ProviderSpec, load_catalogue
from taskflow.service import Caller, Service
from taskflow.settings import Settings
from tests.simulation import invariants
from tests.simulation.chance import Chance
from tests.simulation.fibers import Fiber, Process
from tests.simulation.gate import Gate
from tests.simulation.invariants import Broken, Ledger, hold
from tests.simulation.outside import Post, SimulatedProvider, SimulatedWire
from tests.simulation.people import People
from tests.simulation.ports import Broker, Client, Hints, HostClock, Server, SimulatedDatabase, simulate_renewal
from tests.simulation.storage import Storage
from tests.support.keys import keys_left
from tests.support.virtual import Planner

#: Faults begin within the first so many events, and may happen in the next so many.
_CHAOS_BEGINS = 700
_CHAOS_EVENTS = 500
#: Afterwards everything must be over within these.
_CALM_EVENTS = 12_000
_WORKERS = 2
#: Waits that run out while things happen; polls so far apart that a lost wake-up is seen as a task that hangs.
_IMPATIENT: dict[str, Any] = {"workspace_ready_timeout_s": 6.0, "session_grace_s": 2.0, "liveness_poll_s": 3.0}
_PATIENT: dict[str, Any] = {"liveness_poll_s": 3000.0, "capacity_poll_s": 3000.0, "provision_poll_s": 3000.0}
#: In peace everything is over within this time: no poll of the patient is needed for it.
_CALM_S = 1500.0
#: A pump looks this often while there is something to see, else only now and then: empty looks would be most events.
_PUMP_S = 0.5
_IDLE_PUMP_S = 20.0


class Simulation:
    """A few processes of the control plane, people, nodes, and every fault of the seed."""

    def __init__(self, seed: int, traveller: time_machine.Traveller, storage: Storage, chance: Chance) -> None:
        self.chance = chance
        self.settings = _settings(seed)
        #: Whether nodes are other machines, whose links may be cut.
        self.remote = random.Random(f"machines {seed}").random() < 0.5
        self.gate = Gate(chance, self.settings.lease_s)
        self.server = Server(self.gate)
        self.broker = Broker(self.gate)
        self.planner = Planner(time.time)
        self.processes: list[Process] = []
        self.events = 0
        self._traveller = traveller
        self._storage = storage
        self._ledger = Ledger(storage.connection)
        self._releases = 1
        self._lost_at = 0.0
        self._written = False
        self._sweep_at = dict.fromkeys(
            ("rescue", "outbox", "stuck_tasks", "warm_nodes", "lost_nodes", "stop_ended_workspaces"), 0.0
        )
        self.post = Post(self.gate, self.planner, self.ask)
        self.provider = SimulatedProvider(self.planner, self.gate, self.post, self.ask)
        self.wire = SimulatedWire(self.provider, self.gate)
        self._start("web")
        agreed_shards(self.web.app.database, self.settings.shards)
        for number in range(_WORKERS):
            self._start(f"worker-{number}")
        accounts = self.web.app.service.accounts
        token = accounts.create_token(owner="ada", name="test")["token"]
        self.caller: Caller = accounts.authenticate(token, "api")
        self.people = People(self)

    # --- processes

    @property
    def web(self) -> Process:
        """The web process that runs now."""
        return next(process for process in reversed(self.processes) if process.name == "web")

    def _start(self, name: str) -> None:
        skew_s = self.chance.between(-20.0, 20.0) if self.chance.fault("clock_skew") else 0.0
        if self.chance.fault("newer_state"):
            self._releases = 2
        release = self.highest_release if self.chance.peace else self.chance.order.randint(1, self._releases)
        process = Process(name, release, skew_s)
        clock = HostClock(process)
        database = SimulatedDatabase(
            self._storage.engine, clock, self.gate, process, self._storage.disturbance, self._after_commit
        )
        app = bootstrap(
            self.settings, publisher=Hints(self.broker, self.gate, process),
            client=Client(self.server, self.gate, process), clock=_as_clock(clock),
            providers={"local": self.provider, "remote": self.provider}, database=database,
            catalogue=_catalogue(self.settings, self.remote),
        )  # fmt: skip
        app.runner._renewer = simulate_renewal(process, app.control, clock)
        app.runner._rng = random.Random(f"{name} {self.events}")
        _release(app, process, self)
        process.app = app
        self.processes = [one for one in self.processes if one.name != name] + [process]
        if name == "web":
            self.provider.service = app.service
        self.gate.say(name, f"starts: release {release}, clock {skew_s:+.1f} s")

    @property
    def highest_release(self) -> int:
        """The newest release that ever ran: what a finished deploy leaves everywhere."""
        return self._releases

    def _reap(self) -> None:
        """A dead process loses all its threads at once; its supervisor starts another."""
        for process in [one for one in self.processes if not one.alive and one.name]:
            if not process.fibers and process.pump_at < 0:
                continue
            for fiber in process.fibers:
                self._run(fiber, kill=True)
                self._finish(fiber)
            process.fibers.clear()
            process.pump_at = -1.0  # buried
            self.planner.after(self.chance.between(0.1, 3.0), partial(self._start, process.name))

    # --- fibers

    def spawn(
        self, process: Process, kind: str, label: str, work: Callable[[], Any],
        answered: Callable[[Fiber], None] | None = None,
    ) -> None:  # fmt: skip
        """A thread of ``process`` begins; ``answered`` is called when it is over."""
        fiber = Fiber(process, kind, label, work)
        fiber.answered = answered
        if not process.alive:
            fiber.crashed = True
            process.fibers.remove(fiber)
            self._finish(fiber)

    def ask(self, label: str, work: Callable[[Service], Any], answered: Callable[[Fiber], None]) -> None:
        """A request to the web process; refused at once while it is down."""
        web = self.web
        self.spawn(web, "request", label, lambda: work(web.app.service), answered)

    def _run(self, fiber: Fiber, *, kill: bool = False) -> None:
        self.gate.current = fiber
        try:
            fiber.kill() if kill else fiber.resume()
        finally:
            self.gate.current = None

    def _resume(self, fiber: Fiber) -> None:
        self._run(fiber)
        if fiber.over:
            fiber.process.fibers.remove(fiber)
            self._finish(fiber)

    def _finish(self, fiber: Fiber) -> None:
        error = fiber.error
        if error is not None and not isinstance(error, TaskflowError | redis.RedisError):
            raise Broken(f"{fiber.label} raised {error!r}") from error
        if fiber.answered is not None:
            fiber.answered(fiber)

    # --- events

    def run(self) -> None:
        """Quiet for a while, so that every part of a task's life gets its faults; then faults; then peace to the end."""
        begin = self.chance.order.randrange(_CHAOS_BEGINS)
        while self.events < begin + _CHAOS_EVENTS and not self.people.satisfied():
            self.chance.active = self.events >= begin
            self._event()
        self._make_peace()
        for ready, what in (
            (self.people.satisfied, "every task ends"),
            (self.people.no_nodes, "every node is destroyed"),
            (self._quiet, "everything is delivered"),
        ):
            end, end_at = self.events + _CALM_EVENTS, time.time() + _CALM_S
            while not ready():
                if self.events >= end or time.time() >= end_at:
                    raise Broken(f"not within {_CALM_EVENTS} events and {_CALM_S:g} s of peace: {what}")
                self._event()
        self._check_end()

    def _make_peace(self) -> None:
        self.gate.say("", "--- no more faults")
        self.chance.active = False
        self.chance.peace = True
        for process in self.processes:
            process.paused_until = process.renewal_stalled_until = 0.0
            if process.alive and process.release < self.highest_release:
                process.alive = False  # the deploy is finished

    def _event(self) -> None:
        self.events += 1
        self._reap()
        self._break_redis()
        if self.chance.fault("node_death"):
            self.provider.kill_one()
        if self.remote and self.chance.fault("link_cut"):
            self.provider.cut_one(2.0 * self.settings.node_lost_s)
        choices = self._choices()
        if choices:
            weights = [weight for weight, _ in choices]
            self.chance.order.choices(choices, weights)[0][1]()
            self._traveller.shift(self.chance.between(0.0, 0.03))
        else:
            self._jump()
        if self._written:
            self._written = False
            self._ledger.after_commit()
        if self.server.written:
            self.server.written = False
            self._check_alarms()
        invariants.effects_once(self.provider)
        invariants.one_place_at_a_time(self.provider)

    def _choices(self) -> list[tuple[float, Callable[[], None]]]:
        now = time.time()
        found: list[tuple[float, Callable[[], None]]] = []
        for process in self.processes:
            if not process.alive or process.paused_until > now:
                continue
            for fiber in process.fibers:
                if fiber.sleeping_until <= now:
                    found.append((6.0, partial(self._resume, fiber)))
            if self._may_renew(process, now):
                found.append((4.0, partial(self._renew, process)))
            if process.name != "web":
                found += self._worker_choices(process, now)
        due = [one for one in self.planner.waiting if one[0] <= now]
        if due:
            found.append((3.0, lambda: self._let_happen(due)))
        return found

    def _worker_choices(self, process: Process, now: float) -> list[tuple[float, Callable[[], None]]]:
        found: list[tuple[float, Callable[[], None]]] = []
        if not process.has("turn") and self.broker.due(process):
            found.append((4.0, lambda: self._take(process)))
        if not process.has("pump") and self._pump_due(process) <= now:
            found.append((2.0, lambda: self._pump(process)))
        late = [name for name, at in self._sweep_at.items() if at <= now]
        if late and not process.has("sweep"):
            found.append((1.0, lambda: self._sweep(process, late[0])))
        return found

    def _let_happen(self, due: list[Any]) -> None:
        chosen = self.chance.order.choice(due)
        self.planner.waiting.remove(chosen)
        chosen[2]()

    def _take(self, process: Process) -> None:
        alarm = self.broker.take(process)
        if alarm is not None:
            turn = process.app.runner.turn
            self.spawn(process, "turn", f"{alarm.name} of {alarm.run_id}", lambda: turn(alarm.run_id, alarm.generation))

    def _pump_due(self, process: Process) -> float:
        scores = self._scores()
        watched = min(scores) if scores else float("inf")
        if time.time() - self._lost_at < 5.0 or self._lost_at > process.pump_at:
            watched = 0.0
        return min(max(process.pump_at, watched + 0.001), max(0.0, process.pump_at) + _IDLE_PUMP_S)

    def _pump(self, process: Process) -> None:
        process.pump_at = time.time() + _PUMP_S
        self.spawn(process, "pump", "pump", process.app.pump.tick)

    def _sweep(self, process: Process, name: str) -> None:
        pauses = {"rescue": self.settings.rescue_interval_s, "outbox": self.settings.outbox_interval_s}
        self._sweep_at[name] = time.time() + pauses.get(name, 60.0)
        self.spawn(process, "sweep", name, lambda: process.app.sweep(name))

    def _may_renew(self, process: Process, now: float) -> bool:
        renewal = process.app.runner._renewer
        waiting = max(process.renew_at, process.renewal_stalled_until)
        return waiting <= now and bool(renewal._held) and not process.has("renewal")

    def _renew(self, process: Process) -> None:
        process.renew_at = time.time() + self.settings.lease_s / 3
        self.spawn(process, "renewal", "renewal", process.app.runner._renewer.renew_once)

    def _break_redis(self) -> None:
        chance, order = self.chance, self.chance.order
        if chance.fault("redis_flushed"):
            self.gate.say("redis", "FLUSHALL")
            self.server.flush()
            if order.random() < 0.5:
                self.broker.waiting.clear()
        elif chance.fault("redis_tail_lost"):
            writes = order.randrange(1, 8)
            self.gate.say("redis", f"RESTART without the last {writes} writes")
            self.server.lose_tail(writes)
        elif chance.fault("stale_replica"):
            self.gate.say("redis", "STALE REPLICA promoted")
            self.server.promote_replica()
        else:
            return
        self._lost_at = time.time()

    def _jump(self) -> None:
        """Nothing can go on now: move to when something can."""
        now = time.time()
        times = [at for at, _, _ in self.planner.waiting] + list(self._sweep_at.values())
        for process in self.processes:
            if not process.alive:
                continue
            times += [process.paused_until, process.renew_at, process.renewal_stalled_until]
            times += [fiber.sleeping_until for fiber in process.fibers]
            times += [at - process.skew_s for at, _, _ in self.broker.waiting]
            times.append(self._pump_due(process))
        later = [at for at in times if at > now]
        self._traveller.shift((min(later) - now if later else 0.0) + 0.001)

    # --- what must hold

    def _after_commit(self, process: Process) -> None:
        self._written = True

    def _scores(self) -> list[float]:
        held = self.server.fake.dbs[0]._dict
        keys = [key for key in held if key.endswith(b":alarms")]
        return [score for key in keys for score in _entries(held[key].value).values()]

    def _check_alarms(self) -> None:
        held = self.server.fake.dbs[0]._dict
        control = self.web.app.control
        runs = [key.rsplit(b":", 1)[1].decode() for key in held if b":run:" in key]
        for run_id in runs:
            index = held.get(control.alarms_key(control.shard_of(run_id)).encode())
            if index is None or run_id.encode() not in index.value:
                raise Broken(f"{run_id} has control state and no alarm")

    def _quiet(self) -> bool:
        """Nothing is on its way any more, and every lease has run out."""
        if self.post.under_way or self.people.under_way or any(process.fibers for process in self.processes):
            return False
        with fakeredis.FakeRedis(server=self.server.fake) as client:
            left = keys_left(client, self.settings.key_prefix)
        return not left and not self._storage.open_outbox()

    def _check_end(self) -> None:
        self._ledger.after_commit()
        self._ledger.settled(self.post, self.provider.dead)
        invariants.nothing_outside(self.provider)
        self.people.check()

    def abandon(self) -> None:
        """Let go of the threads that never ended."""
        for process in self.processes:
            process.alive = False
            for fiber in process.fibers:
                fiber.kill()
            process.fibers.clear()


def _entries(value: Any) -> dict[bytes, float]:
    """Members and scores of fakeredis' sorted set."""
    return dict(value.items())


def _as_clock(clock: HostClock) -> Clock:
    return clock


def _settings(seed: int) -> Settings:
    """Settings of one run: what must not matter varies with the seed. Some runs wait so briefly that waits run out."""
    vary = random.Random(f"settings {seed}")
    impatient = vary.random() < 0.3
    patient = not impatient and vary.random() < 0.5
    return dataclasses.replace(
        Settings(), secret_key="only-for-tests-" + "0" * 32, key_prefix="tf-sim", data_dir="/nonexistent",
        lease_s=vary.choice((2.0, 5.0)), near_window_s=vary.choice((3.0, 15.0)), shards=vary.choice((1, 2, 4)),
        turn_max_steps=vary.choice((1, 3, 50)), node_slots=vary.choice((1, 2)), local_nodes_max=vary.choice((1, 2)),
        node_warm_s=vary.choice((5.0, 40.0)), newer_state_retry_s=5.0, rescue_interval_s=10.0,
        heartbeat_interval_s=15.0, step_max_crashes=50, dead_man_s=90.0, node_lost_s=150.0,
        **(_IMPATIENT if impatient else _PATIENT if patient else {}),
    )  # fmt: skip


def _catalogue(settings: Settings, remote: bool) -> Catalogue:
    """Nodes of this machine, or the same number of other machines."""
    if not remote:
        return load_catalogue(settings)
    offer = Offer("remote", "s", "", vcpus=2.0, memory_mb=4000, slots=settings.node_slots)
    most = settings.local_nodes_max
    return Catalogue((ProviderSpec("remote", "simulated", (offer,), 0, most, most, {}),))


def _release(app: Any, process: Process, simulation: Simulation) -> None:
    """What a release knows: its pipelines' versions. An older one must not write what a newer one began."""
    for name, pipeline in list(app.pipelines.items()):
        app.pipelines[name] = dataclasses.replace(pipeline, version=process.release)
    apply = app.store.apply

    def watched(run: Any, change: Any) -> Any:
        hold(run.version <= process.release, f"release {process.release} writes {run.id} of version {run.version}")
        return apply(run, change)

    app.store.apply = watched
