"""What a person looks at first: what needs attention, how much goes on, how long it takes, and whether everything works."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import redis
from sqlalchemy import Connection, Float, Row, cast, func, select

from taskflow.clock import isoformat
from taskflow.db.listing import OF_TASK
from taskflow.db.models import Run, Task
from taskflow.db.own_runs import OWN, count_open_runs, ended_as, failed_runs
from taskflow.db.providers import accounts
from taskflow.db.session import Database
from taskflow.db.status import STATUSES, TERMINAL
from taskflow.engine.control import Control
from taskflow.service.accounts import Caller
from taskflow.service.health import Health
from taskflow.service.views import own_run_summary, task_summary
from taskflow.settings import Settings
from taskflow.sweeps.lateness import Standing, standings

HOURS = 24
_HOUR_S = 3600.0
_FAILED_SHOWN = 5
_FAILS = "fails; taskflow doctor says why"
_OPEN = tuple(status for status in STATUSES if status not in TERMINAL)


class Overview:
    """Reads only. ``numbers`` is of the caller's things, ``installation`` of what serves everybody."""

    def __init__(
        self, database: Database, control: Control, settings: Settings, now: Callable[[], float], health: Health
    ) -> None:
        self._database = database
        self._control = control
        self._settings = settings
        self._now = now
        self._health = health

    def numbers(self, caller: Caller) -> dict[str, Any]:
        """The caller's tasks, and runs of pipelines of their own.

        ``open`` (status -> how many tasks) and ``open_runs`` (the same of runs); ``hours`` (of a day, the present one last:
        what of both ended in each, and how long it took, mean and longest); of what failed in it the newest tasks
        (``failed``) and runs (``failed_runs``), and the ``failed_count`` of both.
        """
        now = self._now()
        since = (now // _HOUR_S - (HOURS - 1)) * _HOUR_S
        with self._database.read() as tx:
            found = dict.fromkeys(_OPEN, 0) | _open_counts(tx, caller.owner_id)
            open_runs = count_open_runs(tx, caller.owner_id)
            ended = [*_ended_tasks(tx, caller.owner_id, since), *_ended_runs(tx, caller.owner_id, since)]
            failed = _failed(tx, caller.owner_id, since)
            runs = failed_runs(tx, caller.owner_id, since, _FAILED_SHOWN)
        hours = _hours(ended, since)
        return {
            "open": found, "open_runs": open_runs, "hours": hours, "since": isoformat(since), "failed": failed,
            "failed_runs": [own_run_summary(row) for row in runs], "failed_count": sum(hour["failed"] for hour in hours),
        }  # fmt: skip

    def installation(self) -> dict[str, Any]:
        """``checks`` of the stores; ``worker`` and ``beat`` (``state``: ok, late or unknown, and ``says``);
        ``sweeps`` that are late, degraded or paused; ``alarms`` (due, late; None: Redis does not answer); ``providers``
        that are closed."""
        checks = self._health.ready()["checks"]
        paused = self._health.paused_sweeps()
        now = self._now()
        stand = standings(self._database, self._settings.sweep_intervals(), now)
        worker, beat = checks.pop("worker", None), checks.pop("beat", None)
        return {
            # What a driver said (hosts, users) is for who runs the installation: every owner's viewer looks here.
            "checks": {name: "ok" if says == "ok" else _FAILS for name, says in checks.items()},
            "worker": _process(worker, lambda: f"{len(self._health.workers())} processes live"),
            "beat": _process(beat, lambda: "it starts sweeps in time"),
            "sweeps": [found for one in stand if (found := _trouble(one, paused)) is not None],
            "alarms": self._alarms(),
            "providers": self._providers(now),
        }

    def _alarms(self) -> dict[str, int] | None:
        """How many alarms are due, and how many of them for longer than a living worker leaves one."""
        control = self._control
        try:
            now = control.now()
            pipe = control.client.pipeline(transaction=False)
            for shard in range(control.shards):
                pipe.zcount(control.alarms_key(shard), "-inf", now)
                pipe.zcount(control.alarms_key(shard), "-inf", now - self._settings.alarm_overdue_s)
            found = [int(number) for number in pipe.execute()]
        except redis.RedisError:
            return None
        return {"due": sum(found[::2]), "late": sum(found[1::2])}

    def _providers(self, now: float) -> list[dict[str, Any]]:
        with self._database.read() as tx:
            known = accounts(tx)
        found = []
        for name, row in known.items():
            rests = row.rests_until is not None and row.rests_until > now
            why: Mapping[str, Any] | None = row.blocked or (row.rests_because if rests else None)
            if why is not None:
                said, until = why.get("message", "it sells nothing now"), row.rests_until if not row.blocked else None
                found.append({"name": name, "blocked": bool(row.blocked), "says": said, "until": isoformat(until)})
        return found


def _open_counts(tx: Connection, owner_id: str) -> dict[str, int]:
    rows = tx.execute(
        select(Task.status, func.count().label("tasks"))
        .where(Task.owner_id == owner_id, Task.status.in_(_OPEN))
        .group_by(Task.status)
    )
    return {row.status: row.tasks for row in rows}


def _ended_tasks(tx: Connection, owner_id: str, since: float) -> Sequence[Row[Any]]:
    # Of its last run: from when that was asked for.
    hour, took, of_day = _span(func.coalesce(Run.created_at, Task.created_at), Task.completed_at, since)
    return tx.execute(
        select(hour, Task.status, *took)
        .outerjoin_from(Task, Run, Run.id == Task.run_id)
        .where(Task.owner_id == owner_id, *of_day)
        .group_by(hour, Task.status)
    ).all()


def _ended_runs(tx: Connection, owner_id: str, since: float) -> Sequence[Row[Any]]:
    hour, took, of_day = _span(Run.created_at, Run.finished_at, since)
    status = ended_as().label("status")
    return tx.execute(
        select(hour, status, *took).where(Run.owner_id == owner_id, OWN, *of_day).group_by(hour, status)
    ).all()


def _span(begun: Any, ended: Any, since: float) -> tuple[Any, Sequence[Any], Sequence[Any]]:
    """Of what ended since then: in which hour, how many and how long they took, and what has to be so."""
    # Rounded, not cast: the databases disagree about what a cast does with a fraction.
    hour = func.round(cast((ended - since) / _HOUR_S - 0.5, Float)).label("hour")
    took = ended - begun
    counted = func.count().label("number"), func.sum(took).label("sum_s"), func.max(took).label("max_s")
    return hour, counted, (ended.is_not(None), ended >= since)


def _hours(rows: Iterable[Row[Any]], since: float) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"from": isoformat(since + number * _HOUR_S), "completed": 0, "failed": 0, "cancelled": 0, "mean_s": None,
         "longest_s": None, "sum_s": 0.0}
        for number in range(HOURS)
    ]  # fmt: skip
    for row in rows:
        one = found[min(max(int(row.hour), 0), HOURS - 1)]
        one[row.status] += row.number
        if row.status == "completed":  # what failed or was cancelled says nothing of how long the work takes
            one["sum_s"] += row.sum_s
            one["longest_s"] = max(one["longest_s"] or 0.0, row.max_s)
    for one in found:
        total_s = one.pop("sum_s")
        one["mean_s"] = total_s / one["completed"] if one["completed"] else None
    return found


def _failed(tx: Connection, owner_id: str, since: float) -> list[dict[str, Any]]:
    rows = tx.execute(
        select(*OF_TASK)
        .outerjoin(Run, Run.id == Task.run_id)
        .where(Task.owner_id == owner_id, Task.status == "failed", Task.completed_at >= since)
        .order_by(Task.completed_at.desc(), Task.id.desc())
        .limit(_FAILED_SHOWN)
    )
    return [task_summary(row) for row in rows]


def _process(says: str | None, alive: Callable[[], str]) -> dict[str, Any]:
    if says is None:
        return _said("unknown", "it can be told once the stores answer")
    return _said("ok", alive()) if says == "ok" else _said("late", says)


def _trouble(one: Standing, paused: frozenset[str]) -> dict[str, Any] | None:
    if one.name in paused:
        return {"name": one.name, **_said("paused", "paused by somebody")}
    if one.late:
        says = "it never succeeded" if one.age_s is None else "its last success was"
        return {"name": one.name, **_said("late", says, one.age_s)}
    if one.degraded:
        return {"name": one.name, **_said("degraded", "it fails at some items")}
    return None


def _said(state: str, says: str, age_s: float | None = None) -> dict[str, Any]:
    return {"state": state, "says": says, "age_s": age_s}
