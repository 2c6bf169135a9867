"""Control state in Redis: typed calls of ``lua/*.lua``.

| key | type | holds |
|---|---|---|
| ``{prefix}:{<shard>}:run:<run_id>`` | hash | pipeline, version, step, subject, rev, counters, generation, due, wake |
| ``{prefix}:{<shard>}:lease:<run_id>`` | string, PX | its owner (``lease.new_token``): the turn that has the run |
| ``{prefix}:{<shard>}:alarms`` | sorted set | run id by the time at which it must be looked at next |
| ``{prefix}:{<shard>}:incarnation`` | string | random id, made as a reconcile begins, told to SQL as it ends |

The braces are literal: all keys of a script share one hash slot. Only ``pump`` and ``ensure`` build key names, from the
base they are given. Losing all of it costs nothing but time: see ``rescue``.
"""

from __future__ import annotations

import random
import secrets
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import redis

from taskflow.engine.store import RunRow
from taskflow.ids import RunId

_SCRIPTS = ("fire", "renew", "commit", "signal", "ensure", "pump", "forget", "abandon")
_GENERATION_MAX = 2**31
#: How long after the end of a lease the index looks at its run: long enough for the key to be gone.
_LEASE_SLACK_S = "0.1"
#: So many deaths of a run's workers in a row are taken over from at once; further ones when the lease is over.
_DEATHS_AT_ONCE = 2
#: Leases looked through at most, for each shard, by a process that begins.
_LEASES_MAX = 10_000


@dataclass(frozen=True)
class Alarm:
    """An alarm to publish. For people: ``name`` is ``<pipeline>.<step>``, ``subject`` what it is a run of."""

    run_id: RunId
    generation: str
    countdown_s: float
    name: str
    subject: str = field(default="", compare=False)


def alarm_of(row: RunRow, generation: str, countdown_s: float) -> Alarm:
    """The alarm that calls the run of ``row`` back."""
    return Alarm(row.id, generation, countdown_s, f"{row.pipeline}.{row.step}", row.subject)


@dataclass(frozen=True)
class Fired:
    """Answer of ``fire``. ``verdict``: go, or why the alarm is dropped (missing, busy, stale, early)."""

    verdict: str
    now: float
    due: float = 0.0
    generation: str = ""
    step: str = ""
    rev: int = 0
    attempt: int = 0
    fires: int = 0
    lost: int = 0
    name: str = ""
    subject: str = ""


@dataclass(frozen=True)
class Committed:
    """Answer of ``commit``. ``verdict``: kept (the lease goes on), parked, fenced or missing."""

    verdict: str
    now: float
    due: float = 0.0
    generation: str = ""
    woke: bool = False


@dataclass(frozen=True)
class Standing:
    """Where a turn stands: its step, the row's ``rev``, the step's failed attempts and how often it was started.

    ``lost``: turns in a row that took the lease and never came back, with the one under way.
    """

    step: str
    rev: int
    attempt: int = 0
    fires: int = 0
    lost: int = 1


@dataclass(frozen=True)
class Pumped:
    """Answer of ``pump`` for one shard."""

    shard: int
    incarnation: str
    now: float
    alarms: tuple[Alarm, ...]


class Control:
    """Typed access to the control state. One instance per process, made after fork."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        prefix: str,
        shards: int,
        lease_s: float,
        near_window_s: float,
        ring_grace_s: float,
    ) -> None:
        self.client = client
        self.prefix = prefix
        self.shards = shards
        self.lease_s = lease_s
        self.near_window_s = near_window_s
        self._lease_ms = max(1, int(lease_s * 1000))
        self._near = f"{near_window_s:.6f}"
        self._grace = f"{ring_grace_s:.6f}"
        folder = resources.files("taskflow.engine") / "lua"
        self._scripts = {name: client.register_script((folder / f"{name}.lua").read_text("utf-8")) for name in _SCRIPTS}

    # --- keys

    def shard_of(self, run_id: str) -> int:
        """The shard of a run: a hash that is the same in every process and release."""
        return zlib.crc32(run_id.encode()) % self.shards

    def base(self, shard: int) -> str:
        """What all keys of a shard begin with."""
        return f"{self.prefix}:{{{shard}}}"

    def run_key(self, run_id: str) -> str:
        """Key of the run's hash."""
        return f"{self.base(self.shard_of(run_id))}:run:{run_id}"

    def lease_key(self, run_id: str) -> str:
        """Key of the run's lease."""
        return f"{self.base(self.shard_of(run_id))}:lease:{run_id}"

    def alarms_key(self, shard: int) -> str:
        """Key of a shard's alarm index."""
        return f"{self.base(shard)}:alarms"

    def incarnation_key(self, shard: int) -> str:
        """Key of a shard's incarnation."""
        return f"{self.base(shard)}:incarnation"

    def _run_keys(self, run_id: str) -> list[str]:
        shard = self.shard_of(run_id)
        base = self.base(shard)
        return [f"{base}:run:{run_id}", f"{base}:lease:{run_id}", f"{base}:alarms"]

    # --- the turn

    def fire(self, run_id: RunId, generation: str, token: str) -> Fired:
        """Take the lease if this alarm may start a turn now."""
        raw = self._call("fire", self._run_keys(run_id), [run_id, generation, token, self._lease_ms, _LEASE_SLACK_S])
        if len(raw) == 2:
            return Fired(raw[0], float(raw[1]))
        verdict, now, due, found, step, rev, attempt, fires, lost, name, subject = raw
        counts = (int(rev), int(attempt), int(fires), int(lost))
        return Fired(verdict, float(now), float(due), found, step, *counts, name, subject or "")

    def renew(self, run_id: RunId, token: str) -> bool:
        """Extend the lease; False when it is no longer ours."""
        _, lease, alarms = self._run_keys(run_id)
        return bool(self._scripts["renew"](keys=[lease, alarms], args=[run_id, token, self._lease_ms, _LEASE_SLACK_S]))

    def commit(self, run_id: RunId, token: str, at: Standing | None, *, delay_s: float, keep: bool) -> Committed:
        """Store where a turn stands and when its run is due; None leaves standing as it was (the turn is broken off).

        ``keep``: a run that is due at once keeps its lease, and its step counts as started once more.
        """
        standing = ("", 0, 0, 0, 1) if at is None else (at.step, at.rev, at.attempt, at.fires, at.lost)
        times = (f"{max(0.0, delay_s):.6f}", int(keep), self._lease_ms, self._near, self._grace, _LEASE_SLACK_S)
        raw = self._call("commit", self._run_keys(run_id), [run_id, token, *standing, *times])
        if len(raw) == 2:
            return Committed(raw[0], float(raw[1]))
        verdict, now, due, generation, woke = raw
        return Committed(verdict, float(now), float(due), generation, woke == "1")

    def forget(self, run_id: RunId) -> None:
        """Delete everything of a run that is over."""
        self._scripts["forget"](keys=self._run_keys(run_id), args=[run_id])

    def leases(self) -> list[tuple[RunId, str]]:
        """Runs that a turn has now, each with the lease's token: those the index will look at within a lease's time.

        Two round trips. One that was taken or renewed in between may be missed.
        """
        now, within_s = self.now(), self.lease_s + 2 * float(_LEASE_SLACK_S)
        pipe = self.client.pipeline(transaction=False)
        for shard in range(self.shards):
            pipe.zrangebyscore(self.alarms_key(shard), now, now + within_s, start=0, num=_LEASES_MAX)
        runs = [RunId(_text(run_id)) for found in pipe.execute() for run_id in found]
        for run_id in runs:
            pipe.get(self.lease_key(run_id))
        return [(run_id, _text(token)) for run_id, token in zip(runs, pipe.execute(), strict=True) if token is not None]

    def abandon(self, run_id: RunId, token: str) -> Alarm | None:
        """End the lease of a turn whose process is gone.

        The alarm to publish; None when the lease is another's by now, or is left to run out.
        """
        raw = self._call("abandon", self._run_keys(run_id), [run_id, token, self._grace, _DEATHS_AT_ONCE])
        return Alarm(run_id, raw[1], 0.0, raw[2], raw[3] or "") if raw[0] == "ring" else None

    # --- alarms and signals

    def signal(self, run_id: RunId, *, due_too: bool = True) -> Alarm | None:
        """Pull the alarm to now. The alarm to publish, or None while a turn is running: it comes back by itself.

        ``due_too=False``: None also for a run that is due already, whose hint the index repeats when the queue is short.

        Without control state (a new run, an emptied store) it is a hint of no generation: who fires it finds nothing
        and rebuilds the run from its row.
        """
        raw = self._call("signal", self._run_keys(run_id), [run_id, self._grace, int(due_too)])
        if raw[0] == "missing":
            return Alarm(run_id, "", 0.0, "rebuild")
        return Alarm(run_id, raw[2], 0.0, raw[3], raw[4] or "") if raw[0] == "ring" else None

    def ensure(self, rows: Sequence[RunRow]) -> list[Alarm]:
        """Give every run of ``rows`` control state and an alarm; those that were rebuilt and are due soon, to publish.

        One round trip for each shard, in one pipeline. A ``rev`` lower than the row's counts as lost (a stale replica).
        """
        by_shard: dict[int, list[RunRow]] = {}
        for row in rows:
            by_shard.setdefault(self.shard_of(row.id), []).append(row)
        alarms: list[Alarm] = []
        for shard, group in by_shard.items():
            # Random, so that a hint from before the loss does not pass for the new one.
            args: list[Any] = [self.base(shard), random.randrange(_GENERATION_MAX), self._near, self._grace]  # noqa: S311
            for row in group:
                wake_at = "" if row.wake_at is None else f"{row.wake_at:.6f}"
                args += [row.id, row.rev, wake_at, row.pipeline, row.version, row.step, row.subject]
            now, *answers = self._call("ensure", [self.alarms_key(shard)], args)
            for row, (verdict, generation, due, name) in zip(group, _rows(answers, 4), strict=True):
                countdown_s = float(due) - float(now)
                if verdict == "rebuilt" and countdown_s <= self.near_window_s:
                    alarms.append(Alarm(row.id, generation, max(0.0, countdown_s), name, row.subject))
        return alarms

    def pump(self, limit: int) -> list[Pumped]:
        """Claim what must be rung now: at most ``limit`` alarms of each shard, oldest first, in one round trip."""
        pipe = self.client.pipeline(transaction=False)
        script = self._scripts["pump"]
        for shard in range(self.shards):
            script(
                keys=[self.alarms_key(shard), self.incarnation_key(shard)],
                args=[self.base(shard), limit, self._grace],
                client=pipe,
            )
        return [_pumped(shard, _text(raw)) for shard, raw in enumerate(pipe.execute())]

    # --- the store as a whole

    def now(self) -> float:
        """Redis time, the clock of alarms, in epoch seconds."""
        seconds, micros = self.client.time()
        return float(seconds) + float(micros) / 1e6

    def server_run_id(self) -> str:
        """The random id a Redis server makes at each start: a restart or a failover changes it.

        '' where INFO is not allowed (a proxy); then only an emptied store is noticed at once, by its incarnation.
        """
        try:
            info: dict[str, Any] = self.client.info("server")
        except redis.ResponseError:
            return ""
        return str(info.get("run_id", ""))

    def incarnation(self, shard: int) -> str:
        """The incarnation of a shard, '' when the store was emptied."""
        value = self.client.get(self.incarnation_key(shard))
        return "" if value is None else _text(value)

    def mark_incarnation(self, shard: int) -> str:
        """The incarnation of a shard, made if there is none. Made as a reconcile begins, it is gone at its end if the
        store was emptied meanwhile."""
        self.client.set(self.incarnation_key(shard), secrets.token_hex(8), nx=True)
        return self.incarnation(shard)

    def known_runs(self, shard: int, cursor: int = 0, batch: int = 500) -> tuple[list[RunId], int]:
        """Some runs that have control state in a shard, and the cursor to go on from; 0 at the end.

        One SCAN: it may repeat a run, and misses none that stays.
        """
        head = f"{self.base(shard)}:run:"
        cursor, keys = self.client.scan(cursor, match=_escape(head) + "*", count=batch)
        return [RunId(_text(key)[len(head) :]) for key in keys], int(cursor)

    def erase(self) -> int:
        """Delete the control state of every shard there is or was; how many keys. Every run is rebuilt from SQL."""
        keys = list(self.client.scan_iter(match=_escape(f"{self.prefix}:{{") + "*", count=500))
        return sum(int(self.client.delete(key)) for key in keys)

    def describe(self, run_id: RunId) -> dict[str, Any]:
        """Control state of a run for people: the hash, the lease's owner, and when the index looks at it next."""
        run_key, lease_key, alarms_key = self._run_keys(run_id)
        pipe = self.client.pipeline(transaction=False)
        pipe.hgetall(run_key)
        pipe.get(lease_key)
        pipe.zscore(alarms_key, run_id)
        pipe.time()
        state, lease, score, clock = pipe.execute()
        return {
            "state": {_text(k): _text(v) for k, v in state.items()},
            "lease": None if lease is None else _text(lease),
            "alarm_at": score,
            "now": float(clock[0]) + float(clock[1]) / 1e6,
        }

    def _call(self, name: str, keys: list[str], args: list[Any]) -> list[Any]:
        raw = self._scripts[name](keys=keys, args=args)
        return _text(raw)  # type: ignore[no-any-return]


def _pumped(shard: int, raw: list[str]) -> Pumped:
    incarnation, now, *rest = raw
    alarms = tuple(
        Alarm(RunId(run_id), generation, max(0.0, float(countdown)), name, subject)
        for run_id, generation, countdown, name, subject in _rows(rest, 5)
    )
    return Pumped(shard, incarnation, float(now), alarms)


def _rows(flat: Sequence[str], width: int) -> Iterable[Sequence[str]]:
    return (flat[i : i + width] for i in range(0, len(flat), width))


def _text(value: Any) -> Any:
    """Bytes to text, in lists too: clients with and without ``decode_responses`` look alike from here on."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple):
        return [_text(item) for item in value]
    return value


def _escape(pattern: str) -> str:
    return "".join("\\" + c if c in "\\*?[]" else c for c in pattern)
