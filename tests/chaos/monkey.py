"""The monkey: carries out the plan, one thread for what must be undone later, and heals everything at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import psutil
import redis
from sqlalchemy import select

from taskflow.broker import ALARM_TASK, make_celery
from taskflow.celery_settings import ALARM_QUEUE
from taskflow.db.models import Run
from taskflow.settings import Settings
from tests.chaos.installation import Installation
from tests.chaos.plan import Fault
from tests.support.waiting import wait_until

_STALE = 50


class Monkey:
    """Hurts ``installation`` by ``plan``. ``done``: what was really done (a process that is down can't be killed)."""

    def __init__(self, installation: Installation, plan: list[Fault], say: Callable[[str], None]) -> None:
        self.installation = installation
        self.plan = plan
        self.done: Counter[str] = Counter()
        self.errors: list[str] = []
        self._say = say
        self._undo: list[threading.Thread] = []
        # One server is hurt by one fault at a time.
        self._servers = {"valkey": threading.Lock(), "postgres": threading.Lock(), "supervisor": threading.Lock()}

    def run(self, seconds: float) -> None:
        """Carry out the plan; returns after ``seconds``, with everything that was begun undone."""
        began = time.monotonic()
        for fault in self.plan:
            time.sleep(max(0.0, began + fault.at_s - time.monotonic()))  # the plan says when
            self._say(str(fault))
            if fault.lasts_s or fault.target == "supervisor":
                thread = threading.Thread(target=self._carry_out, args=(fault,), daemon=True)
                thread.start()
                self._undo.append(thread)
            else:
                self._carry_out(fault)
        time.sleep(max(0.0, began + seconds - time.monotonic()))  # the monkey's time is given
        for thread in self._undo:
            thread.join(150)

    def heal(self) -> None:
        """Everything passes, every server runs, every process is of the newer release."""
        self.installation.links.heal()
        self.installation.owned("valkey", self.installation.valkey.start)
        self.installation.owned("postgres", self.installation.postgres.start)
        for name in ("worker", "worker-2", "web"):
            if not (self.installation.notes / f"newer-{name}").exists():
                self._roll(name)

    def _carry_out(self, fault: Fault) -> None:
        try:
            if self._do(fault):
                self.done[f"kill {fault.target}" if fault.kind == "kill" else fault.kind] += 1
        except Exception as error:
            self.errors.append(f"{fault}: {error!r}")

    def _do(self, fault: Fault) -> bool:
        if fault.kind == "kill":
            return self._kill(fault)
        if fault.kind == "cut":
            link = self.installation.links[fault.target]
            link.set_mode(fault.mode)
            time.sleep(fault.lasts_s)  # the fault lasts
            link.set_mode("pass")
            return True
        if fault.kind == "roll":
            return self._roll(fault.target)
        if fault.kind in ("stale_alarms", "duplicate_alarms"):
            return self._litter(stale=fault.kind == "stale_alarms")
        if fault.kind == "flushall":
            with contextlib.closing(self.installation.valkey.client()) as client:
                try:
                    client.flushall()
                except redis.RedisError:
                    return False  # it is down just now
            return True
        return self._restart(fault)

    def _kill(self, fault: Fault) -> bool:
        here = self.installation
        if fault.target == "supervisor":
            with self._servers["supervisor"]:
                here.kill_supervisor()
            return True
        if fault.target in ("valkey", "postgres"):
            return self._restart(fault)
        if fault.target == "agent":
            pids = here.agent_pids()
        elif fault.target == "child":
            pids = [pid for name in ("worker", "worker-2") for pid in self._children(here.pid(name))]
        else:
            pids = [pid for pid in (here.pid(fault.target),) if pid]
        if not pids:
            return False
        victim = pids[int(fault.pick * len(pids))]
        try:
            if fault.target in ("child", "agent"):
                os.kill(victim, signal.SIGKILL)
            else:
                os.killpg(victim, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def _children(self, pid: int | None) -> list[int]:
        try:
            return [child.pid for child in psutil.Process(pid).children()] if pid else []
        except psutil.NoSuchProcess:
            return []

    def _restart(self, fault: Fault) -> bool:
        name = fault.target or fault.kind.partition("_")[0]
        crash = fault.kind == "kill"
        with self._servers[name]:
            if name == "valkey":
                server = self.installation.valkey
                server.wipe() if fault.kind == "valkey_wipe" else server.stop(sigkill=crash)
                time.sleep(fault.lasts_s)  # the fault lasts
                self.installation.owned(name, server.start)
            else:
                postgres = self.installation.postgres
                if crash and postgres.pid:
                    os.kill(postgres.pid, signal.SIGKILL)
                postgres.stop(crash=crash)
                time.sleep(fault.lasts_s)  # the fault lasts
                self.installation.owned(name, postgres.start)
        return True

    def _roll(self, name: str) -> bool:
        """End it in order; what the supervisor starts in its place is of the newer release."""
        (self.installation.notes / f"newer-{name}").touch()
        former = self.installation.pid(name)
        if former is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(former, signal.SIGTERM)
        # A warm stop takes up to ten seconds of a step's time; the one that hangs longer is ended like at a deploy.
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.installation.pid(name) != former, f"{name} ended", timeout_s=20)
            return True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(former, signal.SIGKILL)
        return True

    def _litter(self, *, stale: bool) -> bool:
        """Fill the broker: alarms of runs that are unknown or over, or a second alarm for each open run."""
        here = self.installation
        try:
            with here.engine.connect() as sql:
                over = Run.finished_at.is_not(None) if stale else Run.finished_at.is_(None)
                ids = list(sql.execute(select(Run.id).where(over).limit(_STALE)).scalars())
            ids += [f"unknown-{number}" for number in range(_STALE)] if stale else []
            app = make_celery(Settings.from_env({"TASKFLOW_REDIS_URL": here.valkey.url}))
            with app.connection_for_write(connect_timeout=2) as connection:
                for run_id in ids:
                    generation = "1" if stale else ""
                    app.send_task(
                        ALARM_TASK, (run_id, generation), queue=ALARM_QUEUE, ignore_result=True, retry=False,
                        connection=connection,
                    )  # fmt: skip
        except Exception:
            return False  # a store is down just now
        return True
