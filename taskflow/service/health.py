"""Is this installation able to work? Says what is missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import redis
from sqlalchemy import text

from taskflow.clock import isoformat
from taskflow.db.events import count_failing_promises
from taskflow.db.migrate import check_current
from taskflow.db.own_runs import unregistered
from taskflow.db.probe import check_writable
from taskflow.db.session import Database
from taskflow.engine.control import Control
from taskflow.errors import InfrastructureError, NotFound
from taskflow.service.providers import Providers
from taskflow.service.workers import GONE_AFTER_S, Workers
from taskflow.settings import Settings
from taskflow.sweeps.drain_outbox import failing_rows
from taskflow.sweeps.items import count_failing_items, failing_items
from taskflow.sweeps.lateness import WATCHER, Standing, standings

#: Writing is tried this often at most, however often readiness is asked for.
_WRITES_EVERY_S = 5.0
_NO_BEAT = "never succeeded: is beat running?"
#: The most frequent sweep begins at every interval as long as beat sends it and a worker takes it. So many without are an
#: outage, but not less than so many seconds: a queue may be long for a while.
_BEAT_INTERVALS, _BEAT_MIN_S = 3, 60.0


class Health:
    """Checks of the stores, the sweeps and the providers."""

    def __init__(
        self,
        database: Database,
        control: Control,
        settings: Settings,
        now: Callable[[], float],
        providers: Providers,
        workers: Workers,
        backlog: Callable[[], int],
        pipelines: Collection[str],
    ) -> None:
        self._workers = workers
        self._backlog = backlog
        self._pipelines = pipelines
        self._providers = providers
        self._database = database
        self._control = control
        self._settings = settings
        self._now = now
        self._writes: dict[str, str] = {}
        self._writes_at = float("-inf")

    def ready(self) -> dict[str, Any]:
        """``{"ready": bool, "checks": {name: "ok" or what is wrong}}``.

        A store that answers but takes no writes (full, read-only) is not ready; that is looked at every 5 s at most.
        Whether a worker and beat are there (``worker``, ``beat``) is looked at when the stores are in order.
        """
        checks = self._stores()
        if all(value == "ok" for value in checks.values()):
            checks |= {"worker": self._check(self._worker_lives), "beat": self._check(self._beat_works)}
        return {"ready": all(value == "ok" for value in checks.values()), "checks": checks}

    def _stores(self) -> dict[str, str]:
        checks = {"database": self._check(self._database_answers), "migrations": self._check(self._migrations)}
        checks["redis"] = self._check(lambda: self._control.client.ping())
        if all(value == "ok" for value in checks.values()):
            checks |= self._takes_writes()
        return checks

    def _worker_lives(self) -> None:
        if not self._workers.seen():
            raise InfrastructureError(
                f"no worker process was seen for {GONE_AFTER_S:g} s", code="worker", advice="start a worker"
            )

    def _beat_works(self) -> None:
        """Told from the most frequent sweep that is not paused. The rescue is none: workers stand in for it."""
        paused = self.paused_sweeps()
        sent = [one for one in self._standings() if one.name != WATCHER and one.name not in paused]
        if not sent:
            return
        one = min(sent, key=lambda one: one.interval_s)
        began = None if one.row is None else one.row.last_started_at
        age_s = None if began is None else self._now() - began
        if age_s is not None and age_s <= max(_BEAT_INTERVALS * one.interval_s, _BEAT_MIN_S):
            return
        since = "has not begun yet" if age_s is None else f"began {age_s:.0f} s ago"
        raise InfrastructureError(
            f"sweep {one.name}, due every {one.interval_s:g} s, {since}", code="beat", advice="is beat running?"
        )

    def workers(self) -> dict[str, float]:
        """The worker processes that live, each with the seconds since it was seen last. Raises ``InfrastructureError``."""
        try:
            return self._workers.seen()
        except redis.RedisError as error:
            raise InfrastructureError(f"Redis does not answer: {error}", code="redis") from error

    def _standings(self) -> list[Standing]:
        return standings(self._database, self._settings.sweep_intervals(), self._now())

    def _takes_writes(self) -> dict[str, str]:
        age_s = self._now() - self._writes_at
        if not 0 <= age_s < _WRITES_EVERY_S:
            self._writes = {
                "database_writes": self._check(lambda: check_writable(self._database)),
                "redis_writes": self._check(self._redis_takes_writes),
            }
            self._writes_at = self._now()
        return self._writes

    def _redis_takes_writes(self) -> None:
        # Gone a moment later. At ``maxmemory``, or with a full disk under its append-only file, Redis refuses it.
        self._control.client.set(f"{self._control.prefix}:probe", "1", px=1)

    def paused_sweeps(self) -> frozenset[str]:
        """Scheduled jobs that somebody stopped. With Redis away none is: a switch that can't be read is on."""
        names = list(self._settings.sweep_intervals())
        try:
            switches = self._control.client.mget([self._switch(name) for name in names])
        except redis.RedisError:
            return frozenset()
        return frozenset(name for name, off in zip(names, switches, strict=True) if off is not None)

    def pause_sweep(self, name: str, *, paused: bool) -> None:
        """Stop a scheduled job, or let it run again. Raises ``NotFound``, ``InfrastructureError``."""
        names = list(self._settings.sweep_intervals())
        if name not in names:
            raise NotFound(f"no sweep {name}; there are: {', '.join(names)}", fields={"name": "unknown"})
        try:
            if paused:
                self._control.client.set(self._switch(name), "1")
            else:
                self._control.client.delete(self._switch(name))
        except redis.RedisError as error:
            raise InfrastructureError(f"Redis does not answer: {error}", code="redis") from error

    def _switch(self, name: str) -> str:
        return f"{self._control.prefix}:paused:{name}"

    def sweeps(self) -> list[dict[str, Any]]:
        """Each scheduled job: how it stands, its last success and result, and the items that it fails at.

        ``state``: ok, late (no success for three intervals), degraded (items fail), paused, or new (it had no turn yet).
        """
        return self._stand(self._failing(), [])

    def _stand(self, failing: Mapping[str, Any], none: Any) -> list[dict[str, Any]]:
        paused = self.paused_sweeps()
        return [
            {
                "name": one.name, "state": _state(one, paused), "interval_s": one.interval_s,
                "last_started_at": isoformat(one.row.last_started_at if one.row else None),
                "last_success_at": isoformat(one.row.last_success_at if one.row else None), "failures": one.failures,
                "last_result": one.row.last_result if one.row else None, "failing": failing.get(one.name, none),
            }
            for one in self._standings()
        ]  # fmt: skip

    def _failing(self) -> dict[str, list[dict[str, Any]]]:
        """By sweep, what it fails at: of the outbox, promises."""
        found = failing_items(self._database)
        return {**found, "outbox": [*found.get("outbox", []), *failing_rows(self._database)]}

    def sweeps_in_numbers(self) -> list[dict[str, Any]]:
        """The same for anybody's caller: ``failing`` is how many items. Which, and why, may be another owner's."""
        with self._database.read() as tx:
            counts = count_failing_items(tx)
            counts["outbox"] = counts.get("outbox", 0) + count_failing_promises(tx)
        return self._stand(counts, 0)

    def doctor(self) -> list[dict[str, str]]:
        """What could be lost, doubled or delayed here, and what to do: ``{"check", "state", "says"}`` each.

        ``state``: ok, warning or error.
        """
        found = [{"check": name, "state": "ok" if says == "ok" else "error", "says": says}
                 for name, says in self._stores().items()]  # fmt: skip
        if all(one["state"] == "ok" for one in found):
            found += [self._broker(), *self._processes(), *self._sweep_ages()]
            found += [*self._providers_answer(), *self._unregistered_pipelines()]
        return found

    def _processes(self) -> list[dict[str, str]]:
        """A worker or beat that is not there is a warning: before they are started nothing is broken."""
        found = []
        for name, probe in (("worker", self._worker_lives), ("beat", self._beat_works)):
            says = self._check(probe)
            found.append({"check": name, "state": "ok" if says == "ok" else "warning", "says": says})
        if found[0]["says"] == "ok":
            found[0]["says"] = f"{len(self._workers.seen())} worker processes live"
        return found

    def _broker(self) -> dict[str, str]:
        # Not part of readiness: what is accepted meanwhile is rung from the alarm index when the broker is back.
        says = self._check(self._backlog)
        if says != "ok":
            return {"check": "broker", "state": "error", "says": f"{says}: nothing runs until it answers"}
        return {"check": "broker", "state": "ok", "says": f"answers; {self._backlog()} hints wait"}

    def _sweep_ages(self) -> list[dict[str, str]]:
        failing, paused = self._failing(), self.paused_sweeps()
        found = []
        for one in self._standings():
            state = _state(one, paused)
            says = "not yet" if one.age_s is None else f"last success {one.age_s:.0f} s ago"
            if one.row is None:
                # Beat runs a sweep an interval after its own start; the watcher is so frequent that it had its turn.
                says = f"not yet; beat runs it every {one.interval_s:g} s" if one.name != WATCHER else _NO_BEAT
                state = "late" if one.name == WATCHER else state
            if state == "paused":
                says = f"paused by somebody: taskflow sweeps resume {one.name}"
            elif one.failures:
                says += f"; failed {one.failures} times since"
            items = failing.get(one.name, [])
            if items:
                says += f"; fails at {items[0]['item']} ({items[0]['failures']} times): {items[0]['error']['message']}"
            warns = state in ("late", "degraded", "paused")
            found.append({"check": f"sweep {one.name}", "state": "warning" if warns else "ok", "says": says})
        return found

    def _providers_answer(self) -> list[dict[str, str]]:
        return [
            {"check": f"provider {one['provider']}", "state": "ok" if one["ok"] else "error", "says": one["says"]}
            for one in self._providers.probe()
        ]

    def _unregistered_pipelines(self) -> list[dict[str, str]]:
        with self._database.read() as tx:
            rows = unregistered(tx, list(self._pipelines))
        return [
            {
                "check": f"pipeline {row.pipeline}", "state": "error",
                "says": f"it is not registered, and {row.runs} open runs of it are parked (the first is {row.first}); "
                "register it: the setting is TASKFLOW_PIPELINES",
            }
            for row in rows
        ]  # fmt: skip

    def _database_answers(self) -> None:
        with self._database.read() as tx:
            tx.execute(text("SELECT 1"))

    def _migrations(self) -> None:
        check_current(self._database.engine)

    def _check(self, probe: Callable[[], object]) -> str:
        try:
            probe()
        except InfrastructureError as error:
            return f"{error.message}; {error.advice}" if error.advice else error.message
        except redis.RedisError as error:
            return str(error) or repr(error)
        except Exception as error:  # a driver's own error is news too
            return repr(error)
        return "ok"


def _state(one: Standing, paused: Collection[str]) -> str:
    if one.name in paused:
        return "paused"
    if one.late:
        return "late"
    if one.degraded:
        return "degraded"
    return "ok" if one.age_s is not None else "new"
