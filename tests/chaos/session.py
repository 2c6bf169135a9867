"""One run from start to verdict."""

from __future__ import annotations

import importlib.metadata
import platform
import secrets
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from taskflow.db.models import Task
from tests.chaos import plan
from tests.chaos.canary import Canary
from tests.chaos.installation import Installation
from tests.chaos.judge import Verdict, judge
from tests.chaos.monkey import Monkey
from tests.chaos.placed import Placed
from tests.chaos.workload import Workload
from tests.support import invariants
from tests.support.waiting import wait_until

_NODES_GONE_S = 120.0
_TOLD = 40
#: In a run of this length each of these must really have been killed.
_LONG_S, _ALWAYS = (
    540.0,
    ("postgres", "valkey", "supervisor", "worker", "worker-2", "web", "nodehost", "agent", "child"),
)
_VERSIONS = ("celery", "kombu", "redis", "SQLAlchemy", "psycopg", "gunicorn")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Watch:
    """Looks once a second: the live line, the revs, and the longest time in which no task came to its end."""

    def __init__(self, workload: Workload, monkey: Monkey, rev: invariants.RevWatch, placed: Placed) -> None:
        self.workload, self.monkey, self.rev, self.placed = workload, monkey, rev, placed
        self.longest_pause_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join(30)

    def _look(self) -> None:
        began = changed = time.monotonic()
        before, looks = -1, 0
        while not self._stop.wait(1):
            looks += 1
            self.placed.look()
            try:
                over, count = self.workload.ended()
                self.rev.look()
            except SQLAlchemyError:
                continue  # PostgreSQL is down
            now = time.monotonic()
            if over != before or over == count:
                before, changed = over, now
            self.longest_pause_s = max(self.longest_pause_s, now - changed)
            if looks % 5 == 0:
                kills = sum(value for name, value in self.monkey.done.items() if name.startswith("kill"))
                others = self.monkey.done.total() - kills
                _say(
                    f"{now - began:6.0f} s  {over}/{count} of {len(self.workload.jobs)}  {kills} kills, {others} others"
                )


def run_chaos(root: Path, *, tasks: int, minutes: float, seed: int) -> dict[str, Any]:
    """Hurt a real installation below ``root`` and judge it; ``ok`` in the answer says whether every promise was kept."""
    began, seconds = time.monotonic(), minutes * 60
    faults, jobs = plan.faults(seed, seconds), plan.jobs(seed, tasks, seconds)
    _say(f"seed {seed}: {tasks} tasks, {len(faults)} faults in {seconds:.0f} s; again with --seed {seed}")
    _say("\n".join(f"plan {fault}" for fault in faults))
    needle = f"canary-{secrets.token_hex(12)}-"
    with Installation(root) as installation:
        canary = Canary([needle])
        canary.start()
        workload = Workload(installation, jobs, needle, _say)
        monkey = Monkey(installation, faults, _say)
        rev = invariants.RevWatch(installation.engine)
        placed = Placed(installation.data_dir)
        watch = _Watch(workload, monkey, rev, placed)
        submitting = threading.Thread(target=workload.run, name="workload", daemon=True)
        submitting.start()
        monkey_began = time.monotonic()
        monkey.run(seconds)
        monkey_s = time.monotonic() - monkey_began
        monkey.heal()
        _say("the monkey is done; everything is healed")
        submitting.join(300)
        drained_s = _drain(workload, tasks)
        workload.end()
        found = canary.in_files(installation.data_dir, installation.valkey.directory)
        _nodes_end(installation)
        watch.stop()
        canary.stop()
        canary.needles += [token.encode() for token in installation.tokens]
        canary.tokens = installation.derived_tokens()
        found += canary.in_sql(installation.engine)
        with installation.valkey.client() as client:
            found += canary.in_redis(client)
        logs = (installation.output, installation.postgres.log, installation.valkey.log)
        found += canary.in_files(installation.data_dir, installation.valkey.directory)
        found += [f"file {log}" for log in logs if canary.in_file(log)]
        found += canary.in_arguments()
        verdict = judge(installation, workload, rev, placed)
        report = _report(installation, workload, monkey, verdict)
    left = installation.processes()
    verdict.leaks += [f"process {pid} after the stop" for pid in left]
    report |= {
        "leaks": len(verdict.leaks), "canary_found": sorted(set(found)) or 0, "seed": seed,
        "seconds": round(time.monotonic() - began, 1), "monkey_seconds": round(monkey_s, 1),
        "drain_seconds": round(drained_s, 1), "longest_pause_s": round(watch.longest_pause_s, 1),
    }  # fmt: skip
    report["ok"] = _is_ok(report, tasks)
    return report


def _drain(workload: Workload, tasks: int) -> float:
    began = time.monotonic()
    try:
        wait_until(workload.all_over, "every task is over", timeout_s=max(180, tasks * 1.5), poll_s=1)
    except AssertionError as error:
        _say(str(error))  # the verdict names those that are stuck
    return time.monotonic() - began


def _nodes_end(installation: Installation) -> None:
    try:
        wait_until(
            lambda: not invariants.open_rows(installation.engine), "nodes end", timeout_s=_NODES_GONE_S, poll_s=1
        )
    except AssertionError as error:
        _say(str(error))  # the verdict names what is open


def _report(installation: Installation, workload: Workload, monkey: Monkey, verdict: Verdict) -> dict[str, Any]:
    with installation.engine.connect() as sql:
        statuses = list(sql.execute(select(Task.status)).scalars())
    kinds = ("lost", "stuck", "duplicate_effects", "illegal_transitions", "leaks", "unexpected_ends")
    details = {kind: getattr(verdict, kind)[:_TOLD] for kind in kinds if getattr(verdict, kind)}
    details |= {"refused": workload.refused[:_TOLD]} if workload.refused else {}
    done = monkey.done
    return {
        "tasks": len(workload.accepted),
        **{status: statuses.count(status) for status in ("completed", "failed", "cancelled")},
        "kills": sum(count for name, count in done.items() if name.startswith("kill")),
        "flushes": done["flushall"] + done["valkey_wipe"],
        **{kind: len(getattr(verdict, kind)) for kind in kinds},
        "refused": len(workload.refused), "reruns": len(workload.rerun),
        "lost_with_machine": len(verdict.lost_with_machine), "faults": dict(sorted(done.items())),
        "monkey_errors": monkey.errors[:_TOLD], "details": details,
        "versions": {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _VERSIONS},
    }  # fmt: skip


def _is_ok(report: dict[str, Any], tasks: int) -> bool:
    promises: tuple[Callable[[], bool], ...] = (
        lambda: all(
            not report[kind]
            for kind in (
                "lost", "stuck", "duplicate_effects", "illegal_transitions", "leaks", "unexpected_ends", "refused",
                "canary_found", "monkey_errors",
            )
        ),
        lambda: report["tasks"] == tasks and report["completed"] >= 0.7 * tasks,
        lambda: report["kills"] >= report["monkey_seconds"] / 5,
        lambda: report["monkey_seconds"] < _LONG_S or all(report["faults"].get(f"kill {name}") for name in _ALWAYS),
    )  # fmt: skip
    return all(promise() for promise in promises)
