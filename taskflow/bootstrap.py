"""The composition root: the only place that wires. One ``App`` per process, made after fork."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import redis
import structlog

from taskflow import logs
from taskflow.agent_file import AgentFile
from taskflow.broker import CeleryPublisher
from taskflow.certificates import AgentAuthority
from taskflow.clock import Clock, SystemClock
from taskflow.db.installation import agreed_shards, installation_id
from taskflow.db.migrate import check_current
from taskflow.db.providers import ensure_accounts
from taskflow.db.runs import RunStore
from taskflow.db.session import Database, make_engine
from taskflow.engine.alarms import Publisher, Pump, Ringer
from taskflow.engine.control import Control, Pumped
from taskflow.engine.lease import Renewer
from taskflow.engine.meter import SILENT, Meter, Meters
from taskflow.engine.pipeline import Pipeline
from taskflow.engine.rescue import Rescue, Watch
from taskflow.engine.runner import Runner
from taskflow.engine.takeover import take_over_from_the_dead
from taskflow.errors import InfrastructureError
from taskflow.nodes.catalogue import Catalogue, load_catalogue
from taskflow.nodes.context import StepTools
from taskflow.nodes.machine import NodeMachine
from taskflow.nodes.providers.base import Provider
from taskflow.nodes.providers.factory import ProviderShelf, Reach
from taskflow.pipelines.agent_task import agent_task_pipeline
from taskflow.pipelines.registry import Declared, declared, own_pipelines
from taskflow.pipelines.tools import Tools
from taskflow.redis_url import connect
from taskflow.service.core import Service
from taskflow.service.metrics import meter_of
from taskflow.service.timing import StoreClock
from taskflow.service.workers import SAYS_EVERY_S
from taskflow.settings import ENV_PREFIX, Settings
from taskflow.stack.data_dir import DataDir
from taskflow.sweeps.delete_orphans import delete_orphans
from taskflow.sweeps.drain_outbox import consumers, drain_outbox
from taskflow.sweeps.expire_warm_nodes import expire_warm_nodes
from taskflow.sweeps.fail_stuck_tasks import StuckTasks
from taskflow.sweeps.items import Items
from taskflow.sweeps.lateness import warn_of_late_sweeps
from taskflow.sweeps.ledger import Memory, SweepFunction, is_degraded, last_success_at, run_sweep
from taskflow.sweeps.prune import prune_all
from taskflow.sweeps.recover_lost_nodes import LostNodes
from taskflow.sweeps.rescue_runs import rescue_runs
from taskflow.sweeps.retry_error_nodes import retry_error_nodes
from taskflow.sweeps.share_nodes import share_nodes
from taskflow.sweeps.stop_ended_workspaces import EndedWorkspaces
from taskflow.vault import Vault

log = structlog.get_logger(__name__)

#: A rescue older than this many intervals is made up for by a worker's pump.
_RESCUE_LATE_INTERVALS = 3


@dataclass
class App:
    """Everything of one process, wired. ``sweeps`` and ``pump`` refer back to it, so they are added last."""

    settings: Settings
    database: Database
    control: Control
    publisher: Publisher
    ringer: Ringer
    renewer: Renewer
    store: RunStore
    runner: Runner
    rescue: Rescue
    watch: Watch
    service: Service
    pipelines: dict[str, Pipeline]
    tools: StepTools
    meter: Meter
    sweeps: dict[str, SweepFunction] = field(init=False)
    pump: Pump = field(init=False)

    def sweep(self, name: str) -> dict[str, Any]:
        """Run one scheduled job and remember how it went; one that somebody paused is left out."""
        began, became = time.perf_counter(), "failed"
        try:
            if name in self.service.health.paused_sweeps():
                log.warning("sweep_paused", sweep=name)
                became = "paused"
                return {"paused": True}
            result = run_sweep(self.database, name, self.sweeps[name], self.service.now)
            became = "degraded" if is_degraded(result) else "ok"
            return result
        finally:
            self.meter.sweep_ended(name, became, time.perf_counter() - began)

    def check_installation(self) -> None:
        """Raise ``InfrastructureError`` when schema or number of shards are not what this process was made for."""
        check_current(self.database.engine)
        # A credential or a library that is missing is said now, not at the first purchase.
        list(self.tools.providers.values())
        ensure_accounts(self.database, [spec.name for spec in self.tools.catalogue.providers], self.service.now())
        found, wanted = agreed_shards(self.database, self.settings.shards), self.settings.shards
        if found != wanted:
            raise InfrastructureError(
                f"this installation has {found} shards, TASKFLOW_SHARDS says {wanted}", code="shards",
                advice=f"set TASKFLOW_SHARDS={found}, or stop every process and run: taskflow db reshard {wanted}",
            )  # fmt: skip

    def take_over(self) -> None:
        """Ring the runs of this host's dead processes. With Redis away they wait until their leases are over."""
        try:
            take_over_from_the_dead(self.control, self.ringer)
        except redis.RedisError as error:
            log.warning("takeover_failed", error=repr(error))

    def announce(self) -> None:
        """Say that this process is a worker. With Redis away its pump says so as soon as it can."""
        try:
            self.service.workers.lives()
        except redis.RedisError as error:
            log.warning("worker_not_announced", error=repr(error))

    def close(self) -> None:
        """Let go of connections and threads."""
        self.pump.stop()
        with contextlib.suppress(redis.RedisError):
            self.service.workers.goes()
        self.renewer.stop()
        self.database.dispose()
        self.control.client.close()
        self.meter.close()


def bootstrap(
    settings: Settings | None = None,
    *,
    publisher: Publisher | None = None,
    client: redis.Redis | None = None,
    clock: Clock | None = None,
    on_hung: Callable[[str], None] | None = None,
    providers: Mapping[str, Provider] | None = None,
    database: Database | None = None,
    catalogue: Catalogue | None = None,
    pipelines: Sequence[Declared] | None = None,
    rng: random.Random | None = None,
    meter: Meter = SILENT,
) -> App:
    """Wire an ``App``. What is not given is made from ``settings`` (default: the environment's).

    ``pipelines`` of one's own: default, those that are registered. Raises ``UsageError`` for one that can't be used.
    Nothing is counted or traced unless a ``meter`` is given, see ``make_meter``.
    """
    settings = settings or Settings.from_env()
    clock = clock or SystemClock()
    data_dir = DataDir(settings)
    database = database or Database(make_engine(settings.database_url or data_dir.database_url), clock)
    control = Control(
        client or _redis(settings), prefix=settings.key_prefix, shards=settings.shards, lease_s=settings.lease_s,
        near_window_s=settings.near_window_s, ring_grace_s=settings.ring_grace_s,
    )  # fmt: skip
    publisher = publisher or CeleryPublisher(settings)
    ringer = Ringer(control, publisher)
    secret_key = data_dir.secret_key()
    logs.hide([secret_key])
    vault = Vault(secret_key)
    catalogue = catalogue or load_catalogue(settings)
    installation = cache(lambda: installation_id(database))
    if providers is None:
        providers = ProviderShelf(
            catalogue, data_path=data_dir.root, installation=installation, clock=clock,
            timeout_s=settings.provider_timeout_s,
            reach=Reach(
                AgentFile(data_dir.root / "agent").path, settings.public_url, settings.public_ca_file
            ),
        )  # fmt: skip
    tools = StepTools(
        database, providers, vault, settings, catalogue, installation, AgentAuthority(vault, settings), meter=meter
    )  # fmt: skip
    now = StoreClock(control, clock).now
    named = declared(settings) if pipelines is None else [(repr(one), one) for one in pipelines]
    own = own_pipelines(named, Tools(settings, database, vault, now))
    table = {one.name: one for one in (agent_task_pipeline(tools), NodeMachine(tools).pipeline(), *own)}
    store = RunStore(database, table)
    rescue = Rescue(store, control, ringer, page=settings.rescue_page, meter=meter)
    watch = Watch(rescue, store, control, clock)
    service = Service(
        database=database, control=control, ringer=ringer, vault=vault, pipelines=table, settings=settings,
        clock=clock, tools=tools, meter=meter, depths=publisher.depths if isinstance(publisher, CeleryPublisher) else None,
    )  # fmt: skip
    renewer = Renewer(control, clock, on_hung or (lambda step: None))
    runner = Runner(store, control, ringer, renewer, table, settings, clock, rng, meter=meter)
    app = App(
        settings=settings, database=database, control=control, publisher=publisher, ringer=ringer, renewer=renewer,
        store=store, runner=runner, rescue=rescue, watch=watch, service=service, pipelines=table, tools=tools,
        meter=meter,
    )  # fmt: skip
    app.sweeps = _sweeps(app)
    app.pump = Pump(
        control, ringer, publisher, interval_s=settings.pump_interval_s, batch=settings.pump_batch,
        backlog_max=settings.pump_queue_factor * settings.worker_concurrency, on_tick=_on_tick(app, clock),
    )  # fmt: skip
    return app


def make_meter(settings: Settings, role: str) -> Meter:
    """What counts and traces the work of this process, as the settings say. ``role``: worker or web.

    Raises ``InfrastructureError`` when traces are asked for and can't be made.
    """
    counts = meter_of(settings, role)
    if not settings.tracing:
        return counts
    try:
        from taskflow.observe.tracing import Tracing  # here: it needs an extra, and costs nothing where it is off
    except ImportError as error:
        raise InfrastructureError(
            f"TASKFLOW_TRACING is on and OpenTelemetry is missing ({error})", code="settings",
            advice="pip install 'taskflow-engine[otel]', or switch it off",
        ) from error  # fmt: skip
    return Meters((counts, Tracing(role, ratio=settings.tracing_ratio)))


def _redis(settings: Settings) -> redis.Redis:
    if not settings.redis_url:
        raise InfrastructureError(
            "no Redis is configured", code="redis",
            advice="set TASKFLOW_REDIS_URL, or start the embedded one with: taskflow up",
        )  # fmt: skip
    return connect(
        settings.redis_url, f"{ENV_PREFIX}REDIS_URL", socket_timeout=5.0, socket_connect_timeout=3.0, socket_keepalive=True,
        health_check_interval=10,
    )  # fmt: skip


def _sweeps(app: App) -> dict[str, SweepFunction]:
    settings, database, now = app.settings, app.database, app.service.now
    tools, ringer, service = app.tools, app.ringer, app.service
    handlers = consumers(tools, ringer, now, service.tasks.rerun_lost, service.providers.check_asked)
    lost, ended = LostNodes(database, app.control, ringer, settings), EndedWorkspaces(tools.in_haste(), ringer)

    def items(memory: Memory) -> Items:
        return Items(database, memory, now, settings.sweep_page)

    def rescue(memory: Memory) -> dict[str, Any]:
        # The one sweep that is made up for when beat is dead, so it is the one that says so.
        warn_of_late_sweeps(database, settings.sweep_intervals(), app.service.health.paused_sweeps(), memory, now())
        return rescue_runs(app.rescue, app.control, memory)

    return {
        "rescue": rescue,
        "stuck_tasks": StuckTasks(database, app.control, ringer, settings, tools.in_haste().liveness, now),
        "outbox": lambda memory: drain_outbox(database, handlers, now, settings.sweep_page),
        "warm_nodes": lambda memory: expire_warm_nodes(items(memory), ringer, overdue_s=settings.alarm_overdue_s),
        "lost_nodes": lambda memory: lost(items(memory)),
        "stop_ended_workspaces": lambda memory: ended(items(memory)),
        "share_nodes": lambda memory: share_nodes(
            items(memory), ringer, tools.catalogue, ageing_s=settings.priority_ageing_s
        ),
        "delete_orphans": lambda memory: delete_orphans(tools, items(memory)),
        "retry_error_nodes": lambda memory: retry_error_nodes(items(memory), ringer),
        "prune": lambda memory: prune_all(database, settings, now()),
    }


def _on_tick(app: App, clock: Clock) -> Callable[[list[Pumped]], None]:
    """What each pump tick also does: watch the incarnation, say now and then that this worker lives, and stand in for a
    rescue that is long overdue."""
    interval_s = app.settings.rescue_interval_s
    looked = said = clock.monotonic()

    def on_tick(answers: list[Pumped]) -> None:
        nonlocal looked, said
        app.watch.saw(answers)
        if clock.monotonic() - said >= SAYS_EVERY_S:
            said = clock.monotonic()
            app.service.workers.lives()
        if clock.monotonic() - looked < interval_s:
            return
        looked = clock.monotonic()
        last = last_success_at(app.database, "rescue")
        if last is None or app.service.now() - last > _RESCUE_LATE_INTERVALS * interval_s:
            app.sweep("rescue")

    return on_tick
