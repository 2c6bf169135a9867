"""Metrics of the installation, for who operates it: what its processes counted, and what the stores hold now.

They are about everybody's tasks together, and name no owner, task or node.
"""

from __future__ import annotations

import hmac
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import redis
import structlog
from sqlalchemy import Connection, func, select

from taskflow.clock import Clock
from taskflow.db.models import Node, OutboxRow, Run, Task
from taskflow.db.providers import accounts
from taskflow.db.session import Database
from taskflow.db.status import STATUSES, TERMINAL
from taskflow.engine.control import Control
from taskflow.engine.meter import SILENT, Meter
from taskflow.errors import InfrastructureError, Unauthorized
from taskflow.observe.counting import Readings, counting, exposition
from taskflow.settings import Settings
from taskflow.sweeps.items import count_failing_items
from taskflow.sweeps.lateness import standings
from taskflow.vault import Vault

log = structlog.get_logger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Tries after which a promise of the outbox is one that fails.
_FAILING = 3

_Gauge = dict[tuple[str, ...], float]


def meter_of(settings: Settings, role: str) -> Meter:
    """What counts in this process. ``role``: worker or web."""
    if not settings.metrics:
        return SILENT
    return counting(settings.data_path.expanduser().absolute() / "metrics", role)


class Metrics:
    """The text that Prometheus scrapes, and the token it needs for that."""

    def __init__(
        self,
        database: Database,
        control: Control,
        settings: Settings,
        vault: Vault,
        clock: Clock,
        depths: Callable[[], Mapping[str, int]],
    ) -> None:
        self._depths = depths
        self._database = database
        self._control = control
        self._settings = settings
        self._vault = vault
        self._clock = clock
        self._directory = settings.data_path.expanduser().absolute() / "metrics"

    def token(self) -> str:
        """The bearer token of ``GET /metrics``: the setting's, or the installation's own."""
        return self._settings.metrics_token or self._vault.derive_token("metrics", "installation")

    def check(self, token: str | None) -> None:
        """Raise ``Unauthorized`` unless it is that token. Those of users don't do: they are for what is their owner's."""
        if not hmac.compare_digest((token or "").encode(), self.token().encode()):
            raise Unauthorized(
                "the token of the metrics is needed",
                advice="set TASKFLOW_METRICS_TOKEN, or read the installation's own: taskflow metrics --token",
            )

    def text(self) -> bytes:
        """Everything in the format of Prometheus. A store that is away is said, and what it holds is missing."""
        found: dict[str, _Gauge] = {"taskflow_store_up": {}}
        now = self._clock.now()

        def look(store: str, read: Callable[[], dict[str, _Gauge]]) -> None:
            try:
                found.update(read())
                found["taskflow_store_up"][(store,)] = 1.0
            except (InfrastructureError, redis.RedisError) as error:
                log.warning("metrics_incomplete", store=store, error=str(error))
                found["taskflow_store_up"][(store,)] = 0.0

        def of_redis() -> dict[str, _Gauge]:
            nonlocal now
            now = self._control.now()
            return self._of_redis(now)

        # Redis first and once, for its time too: one that hangs is waited for, and a scrape has ten seconds.
        look("redis", of_redis)
        look("database", lambda: self._of_database(now))
        found |= self._of_broker(found["taskflow_store_up"])
        found |= self._of_disk()
        readings: Readings = found
        return exposition(self._directory, readings)

    def _of_disk(self) -> dict[str, _Gauge]:
        try:
            usage = shutil.disk_usage(self._settings.data_path.expanduser())
        except OSError as error:  # the directory was taken away, or its disk
            log.warning("metrics_incomplete", store="disk", error=str(error))
            return {}
        return {
            "taskflow_disk_free_bytes": {(): float(usage.free)},
            "taskflow_disk_size_bytes": {(): float(usage.total)},
        }

    def _of_redis(self, now: float) -> dict[str, _Gauge]:
        control = self._control
        late = now - self._settings.alarm_overdue_s
        pipe = control.client.pipeline(transaction=False)
        for shard in range(control.shards):
            pipe.zcount(control.alarms_key(shard), "-inf", late)
        return {"taskflow_alarms_overdue": {(): float(sum(pipe.execute()))}}

    def _of_broker(self, up: _Gauge) -> dict[str, _Gauge]:
        """How much waits there; ``up``, the stores that answered, gets it beside them."""
        up[("broker",)] = 0.0
        if not up[("redis",)] and not self._settings.broker_url and not self._settings.celery_app:
            return {}  # it is that Redis, which was waited for already
        try:
            depths: _Gauge = {(queue,): float(count) for queue, count in self._depths().items()}
        except Exception as error:  # whatever the transport raises
            log.warning("metrics_incomplete", store="broker", error=repr(error))
            return {}
        up[("broker",)] = 1.0
        return {"taskflow_queue_depth": depths}

    def _of_database(self, now: float) -> dict[str, _Gauge]:
        with self._database.read() as tx:
            found = {
                "taskflow_tasks": _tasks(tx),
                "taskflow_runs_open": _counts(tx, (Run.pipeline, Run.step), Run.finished_at.is_(None)),
                "taskflow_nodes": _counts(tx, (Node.provider, Node.status), Node.destroyed_at.is_(None)),
                **self._providers(tx, now),
                **_outbox(tx),
            }
        return found | self._sweeps(now)

    def _providers(self, tx: Connection, now: float) -> dict[str, _Gauge]:
        rows = accounts(tx)
        unheard = _counts(tx, (Node.provider,), Node.destroyed_at.is_(None), Node.unreachable_since.is_not(None))
        heard: _Gauge = {(name,): 0.0 for name in rows}
        return {
            "taskflow_nodes_unreachable": heard | unheard,
            "taskflow_provider_resting": {
                (name,): float(row.rests_until is not None and row.rests_until > now) for name, row in rows.items()
            },
            "taskflow_provider_blocked": {(name,): float(row.blocked is not None) for name, row in rows.items()},
        }

    def _sweeps(self, now: float) -> dict[str, _Gauge]:
        intervals = self._settings.sweep_intervals()
        rows = standings(self._database, intervals, now)
        succeeded: _Gauge = {(one.name,): one.row.last_success_at for one in rows if one.age_s is not None}
        with self._database.read() as tx:
            failing = count_failing_items(tx)
        return {
            "taskflow_sweep_last_success_timestamp_seconds": succeeded,
            "taskflow_sweep_interval_seconds": {(name,): interval_s for name, interval_s in intervals.items()},
            "taskflow_sweep_failing_items": {(name,): float(failing.get(name, 0)) for name in intervals},
        }


def _counts(tx: Connection, columns: tuple[Any, ...], *where: Any) -> _Gauge:
    rows = tx.execute(select(*columns, func.count()).where(*where).group_by(*columns))
    return {tuple(map(str, labels)): float(count) for *labels, count in rows}


def _tasks(tx: Connection) -> _Gauge:
    # Those that ended are all that there ever were: to count them would cost more with every day.
    still = [status for status in STATUSES if status not in TERMINAL]
    found = _counts(tx, (Task.status,), Task.status.in_(still))
    return {(status,): found.get((status,), 0.0) for status in still}


def _outbox(tx: Connection) -> dict[str, _Gauge]:
    failing = func.count().filter(OutboxRow.attempts >= _FAILING)
    row = tx.execute(select(func.count(), failing).where(OutboxRow.done_at.is_(None))).one()
    return {"taskflow_outbox_open": {(): float(row[0])}, "taskflow_outbox_failing": {(): float(row[1])}}
