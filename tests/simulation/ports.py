"""What a process has instead of the world: Redis, SQL, broker, clock and renewal that fail when the seed says so."""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import fakeredis
import redis
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from taskflow.db.session import Database
from taskflow.engine.control import Alarm, Control
from taskflow.engine.lease import Renewer
from taskflow.errors import InfrastructureError
from tests.simulation.fibers import Process
from tests.simulation.gate import Gate

T = TypeVar("T")
_READS = frozenset({"TIME", "GET", "INFO", "SCAN", "HGETALL", "ZSCORE", "SCRIPT LOAD"})
_HISTORY = 40


class Server:
    """The Redis server that all processes share, and what it held a moment ago."""

    def __init__(self, gate: Gate) -> None:
        self.fake = fakeredis.FakeServer()
        self.run_id = "server-1"
        self._gate = gate
        self._restarts = 1
        self._past: deque[bytes] = deque(maxlen=_HISTORY)
        #: Something was written since this was last set to False.
        self.written = False

    def remember(self) -> None:
        """Called after each write: the state that a crash or a failover may fall back to."""
        self.written = True
        if self._gate.chance.uses("redis_tail_lost", "stale_replica"):
            self._past.append(pickle.dumps(self.fake.dbs[0]._dict))

    def flush(self) -> None:
        """FLUSHALL: the same server, empty."""
        self._clear()

    def lose_tail(self, writes: int) -> None:
        """Killed and restarted from a file that lacks the last writes."""
        self._fall_back(writes)

    def promote_replica(self) -> None:
        """Another server takes over with what it had received so far."""
        self._fall_back(self._gate.chance.order.randrange(5, _HISTORY))

    def _fall_back(self, writes: int) -> None:
        self._restarts += 1
        self.run_id = f"server-{self._restarts}"
        found: dict[bytes, Any] = pickle.loads(self._past[-1 - writes]) if len(self._past) > writes else {}
        self._clear()
        database = self.fake.dbs[0]
        for key, item in found.items():
            database[key] = item
        self._past.clear()

    def _clear(self) -> None:
        self.fake.dbs[0]._dict.clear()
        self.fake.dbs[0]._expiry_heap.clear()


class Client(fakeredis.FakeRedis):
    """One process's connection to Redis."""

    def __init__(self, server: Server, gate: Gate, process: Process) -> None:
        self._ready = False
        super().__init__(server=server.fake, decode_responses=False)
        self._server, self._gate, self._process = server, gate, process
        self._ready = True

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """One command, with what may go wrong around it."""
        if not self._ready:
            return super().execute_command(*args, **options)
        return self._call(str(args[0]), lambda: super(Client, self).execute_command(*args, **options))

    def info(self, section: str | None = None, *args: str, **kwargs: Any) -> Any:
        """Only what the control plane asks: the id that changes with each start of the server."""
        return self._call("INFO", lambda: {"run_id": self._server.run_id})

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        """A pipeline whose execution is one call."""
        pipe = super().pipeline(transaction, shard_hint)
        execute = pipe.execute
        pipe.execute = lambda *args, **kwargs: self._call("PIPELINE", lambda: execute(*args, **kwargs))  # type: ignore[method-assign]
        return pipe

    def _call(self, name: str, work: Callable[[], T]) -> T:
        gate = self._gate
        gate.touch(self._process, f"before redis {name}")
        result = work()
        if name not in _READS:
            self._server.remember()
        if gate.current is not None and not gate.closed and gate.chance.fault("answer_lost"):
            gate.say(self._process.name, f"ANSWER LOST of redis {name}")
            if gate.chance.often(0.5):
                raise redis.TimeoutError("simulated: the answer got lost")
            # The client's own retry: the same command once more.
            gate.touch(self._process, f"before redis {name} again")
            result = work()
        gate.touch(self._process, f"after redis {name}")
        return result


class _Failure(Exception):
    """What the driver would raise."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(f"simulated {sqlstate}")
        self.sqlstate = sqlstate


class Disturbance:
    """Makes the next COMMIT of the shared engine fail. One for each engine."""

    def __init__(self, engine: Engine) -> None:
        self.sqlstate = ""
        event.listen(engine, "commit", self._on_commit)

    def _on_commit(self, _: Connection) -> None:
        if self.sqlstate:
            sqlstate, self.sqlstate = self.sqlstate, ""
            raise OperationalError("COMMIT", {}, _Failure(sqlstate))


class SimulatedDatabase(Database):
    """SQL as one process sees it. ``written`` is told after each commit."""

    def __init__(
        self, engine: Engine, clock: Any, gate: Gate, process: Process, disturbance: Disturbance,
        written: Callable[[Process], None],
    ) -> None:  # fmt: skip
        super().__init__(engine, clock)
        self._gate, self._process, self._disturbance, self._written = gate, process, disturbance, written

    def write(self, work: Callable[[Connection], T]) -> T:
        """One transaction: it may fail before its commit, be asked to retry, or commit and lose the answer."""
        gate, chance = self._gate, self._gate.chance
        gate.touch(self._process, "before sql write")
        troubled = gate.current is not None and not gate.closed
        broken = troubled and chance.fault("sql_error")
        unanswered = broken and chance.often(0.5)
        if broken and not unanswered:
            self._disturbance.sqlstate = "57P01"
        elif troubled and chance.fault("serialization_failure"):
            self._disturbance.sqlstate = "40001"
        gate.closed += 1
        try:
            result = super().write(work)
        finally:
            gate.closed -= 1
            self._disturbance.sqlstate = ""
        self._written(self._process)
        if unanswered:
            gate.say(self._process.name, "SQL ERROR after the commit")
            raise InfrastructureError("simulated: the connection broke after COMMIT", code="database")
        gate.touch(self._process, "after sql write")
        return result

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction for reading; it may fail."""
        gate = self._gate
        gate.touch(self._process, "before sql read")
        if gate.current is not None and not gate.closed and gate.chance.fault("sql_error"):
            gate.say(self._process.name, "SQL ERROR in a read")
            raise InfrastructureError("simulated: the database is away", code="database")
        gate.closed += 1
        try:
            with super().read() as connection:
                yield connection
        finally:
            gate.closed -= 1
        gate.touch(self._process, "after sql read")


class HostClock:
    """The clock of a process's host: virtual time, and how far it is off."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def now(self) -> float:
        """Epoch seconds as this host has them."""
        return time.time() + self._process.skew_s

    def monotonic(self) -> float:
        """Only differences mean something: they are right on every host."""
        return time.time()

    def sleep(self, seconds: float) -> None:  # part of the Clock port
        """Only a retry of a transaction sleeps; nothing else could happen meanwhile."""


class Renewal(Renewer):
    """Leases are renewed when the scheduler says so."""

    def _start(self) -> None:
        """No real thread."""

    @property
    def holds(self) -> bool:
        """Whether a turn of this process holds a lease."""
        return bool(self._held)


def simulate_renewal(process: Process, control: Control, clock: HostClock) -> Renewal:
    """The renewal of a process. A step that hangs past its timeout takes the process with it, as in production."""

    def on_hung(step: str) -> None:
        process.alive = False

    return Renewal(control, clock, on_hung)


class Broker:
    """The queue that all processes share: hints, each with the time at which it may be delivered."""

    def __init__(self, gate: Gate) -> None:
        self.waiting: list[tuple[float, int, Alarm]] = []
        self._gate = gate
        self._published = 0

    def put(self, process: Process, alarm: Alarm) -> None:
        """Queue a hint, or what becomes of it on the way. A countdown is carried as a time of the publisher's clock."""
        chance = self._gate.chance
        if chance.fault("message_lost"):
            self._gate.say(process.name, f"LOST hint {alarm.name} of {alarm.run_id}")
            return
        at = time.time() + alarm.countdown_s + process.skew_s
        self._add(at + (chance.between(0.1, 30.0) if chance.fault("message_delayed") else 0.0), alarm)
        if chance.fault("message_duplicated"):
            self._add(at + chance.between(0.0, 20.0), alarm)

    def _add(self, at: float, alarm: Alarm) -> None:
        self._published += 1
        self.waiting.append((at, self._published, alarm))

    def due(self, process: Process) -> list[tuple[float, int, Alarm]]:
        """What this process would take now, oldest first; its own clock decides whether a countdown is over."""
        now = time.time() + process.skew_s
        return sorted(one for one in self.waiting if one[0] <= now)

    def take(self, process: Process) -> Alarm | None:
        """The next hint for a worker."""
        due = self.due(process)
        if not due:
            return None
        chosen = due[0]
        if len(due) > 1 and self._gate.chance.fault("message_reordered"):
            chosen = self._gate.chance.order.choice(due)
        self.waiting.remove(chosen)
        return chosen[2]


class Hints:
    """The publisher of one process."""

    def __init__(self, broker: Broker, gate: Gate, process: Process) -> None:
        self._broker, self._gate, self._process = broker, gate, process

    def publish(self, alarm: Alarm) -> None:
        """Send one hint."""
        self._gate.touch(self._process, "before publish")
        self._broker.put(self._process, alarm)
        self._gate.touch(self._process, "after publish")

    def backlog(self) -> int:
        """How many hints wait for a worker."""
        return len(self._broker.due(self._process))
