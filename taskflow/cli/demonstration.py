"""``taskflow doctor --demonstrate``: kills, empties, loses and repeats on an installation of its own, and measures."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Connection, func, select

from taskflow.bootstrap import App, bootstrap
from taskflow.cli import embedded, render
from taskflow.cli.demo_pipeline import ANSWER, EFFECT, LOOKS, PIPELINE
from taskflow.cli.interrupts import Interrupts
from taskflow.cli.problems import FAILED, OK
from taskflow.cli.render import Progress
from taskflow.db.migrate import upgrade
from taskflow.db.models import Event
from taskflow.db.runs import get_run, insert_run, record_answer
from taskflow.engine.store import RunRow
from taskflow.ids import RunId, new_run_id
from taskflow.service import diagnosis
from taskflow.settings import Settings
from taskflow.stack.data_dir import DataDir
from taskflow.stack.environment import READY_FILE, child_environment
from taskflow.stack.process import ProcessSpec, SupervisedProcess
from taskflow.stack.valkey import EmbeddedValkey
from taskflow.words import duration

#: All cases together take no longer than this, in seconds; what did not happen by then is said not to have happened.
LIMIT_S = 75.0
_WORKERS = ("one", "two")
_TICKING_S = 6.0
#: After a repeated callback it is watched this long for a second effect, in seconds.
_AFTERWARDS_S = 1.5
_POLL_S = 0.02


@dataclass(frozen=True)
class Case:
    """One fault and what came of it. ``took_s`` None: the task did not go on while it was watched."""

    fault: str
    then: str
    took_s: float | None
    promised_s: float
    effects: int

    @property
    def held(self) -> bool:
        """Whether the task went on and its effect came once."""
        return self.took_s is not None and self.effects == 1

    def view(self) -> dict[str, Any]:
        """As JSON."""
        return {**dataclasses.asdict(self), "held": self.held}


def show(*, as_json: bool) -> int:
    """Demonstrate each case and print the table. 1 when one did not go as promised. Raises ``InfrastructureError``."""
    embedded.configure_logs(Settings())
    progress = Progress(err=as_json, plain=as_json)
    with Interrupts(), scratch(progress) as place:
        cases = []
        for name, case in CASES.items():
            progress.provisional(f"  {name} ...")
            cases.append(case(place))
            progress.line(f"  {name.ljust(30)} {_took(cases[-1].took_s)}")
        progress.provisional("  cleaning up ...")
    progress.provisional("")
    held = all(case.held for case in cases)
    if as_json:
        click.echo(render.to_json({"cases": [case.view() for case in cases], "held": held}))
    else:
        rows = [
            (case.fault, case.then, _took(case.took_s), duration(case.promised_s), case.effects)
            for case in cases
        ]  # fmt: skip
        headers = ("WHAT HAPPENED", "WHAT CAME OF IT", "AFTER", "PROMISED", "EFFECTS")
        progress.line("\n" + render.table(headers, rows))
        progress.line("\neach task goes on and has its effect once" if held else "\nNOT as promised")
    return OK if held else FAILED


def _took(seconds: float | None) -> str:
    return "not at all" if seconds is None else duration(seconds)


class Scratch:
    """An installation in a temporary directory: a Redis, SQLite, two workers, and a log of what steps did when."""

    def __init__(self, folder: Path, app: App, workers: list[SupervisedProcess]) -> None:
        self.settings = app.settings
        self.app = app
        self.workers = workers
        self._looks = folder / "looks"
        self._end = time.monotonic() + LIMIT_S
        self._owner = app.service.accounts.create_token(name="demonstration")["owner_id"]

    def begin(self, kind: str, *, rung: bool = True) -> RunId:
        """Start a run of this kind; ``rung=False``: its hint gets lost on the way."""
        now, run_id = self.app.control.now(), new_run_id()
        row = RunRow(
            id=run_id, pipeline=PIPELINE.name, version=PIPELINE.version, subject_kind=PIPELINE.name, subject_id=run_id,
            number=1, owner_id=self._owner, step=PIPELINE.first, rev=0, step_entered_at=now, created_at=now,
            results={"kind": kind, "until": now + _TICKING_S},
        )  # fmt: skip
        self.app.database.write(lambda tx: insert_run(tx, row))
        alarms = self.app.control.ensure([row])
        if rung:
            self.app.ringer.publish(alarms)
        return run_id

    def looks(self, run_id: RunId) -> list[tuple[float, int]]:
        """When steps of this run were begun, and by the worker of which process group."""
        with contextlib.suppress(FileNotFoundError):
            lines = [line.split() for line in self._looks.read_text(encoding="ascii").splitlines()]
            return [(float(line[1]), int(line[3])) for line in lines if line[0] == run_id]
        return []

    def effects(self, run_id: RunId) -> int:
        """How often the effect of this run happened."""
        asked = select(func.count()).select_from(Event).where(Event.run_id == run_id, Event.kind == EFFECT)
        with self.app.database.read() as tx:
            return int(tx.execute(asked).scalar_one())

    def row(self, run_id: RunId) -> RunRow:
        """The run as it stands."""
        with self.app.database.read() as tx:
            row = get_run(tx, run_id)
        assert row is not None
        return row

    def wait(self, seen: Callable[[], bool], at_most_s: float = LIMIT_S) -> bool:
        """Wait until ``seen``; False when it is not while there is time."""
        end = min(self._end, time.monotonic() + at_most_s)
        while not seen():
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_S)
        return True

    def next_look(self, run_id: RunId, at: float) -> float | None:
        """Seconds from ``at`` until a step of this run began; None when none does."""
        self.wait(lambda: any(look > at for look, _ in self.looks(run_id)))
        later = [look for look, _ in self.looks(run_id) if look > at]
        return min(later) - at if later else None

    def finished_effects(self, run_id: RunId) -> int:
        """Wait for the end of the run, then count its effects."""
        self.wait(lambda: self.row(run_id).finished_at is not None)
        return self.effects(run_id)

    def empty(self) -> None:
        """Throw away everything that Redis holds."""
        self.app.control.client.flushall()


def kill_worker(place: Scratch) -> Case:
    """SIGKILL for the whole worker that is in the middle of a step; another one lives."""
    run_id = place.begin("hang")
    place.wait(lambda: bool(place.looks(run_id)))
    looks = place.looks(run_id)
    killed = time.time()
    for worker in place.workers:
        if looks and worker.pid == looks[0][1]:
            worker.kill()
    took_s = place.next_look(run_id, killed) if looks else None
    promised_s = place.settings.lease_s + diagnosis.rung_again_s(place.settings)
    return Case(
        "a worker was killed in mid-step", "another one took the step over", took_s, promised_s,
        place.finished_effects(run_id),
    )  # fmt: skip


def empty_redis(place: Scratch) -> Case:
    """FLUSHALL while a task looks again and again."""
    run_id = place.begin("tick")
    place.wait(lambda: len(place.looks(run_id)) >= 2)
    place.empty()
    took_s = place.next_look(run_id, time.time())
    return Case(
        "Redis was emptied", "the task was rebuilt from SQL and went on", took_s, diagnosis.rebuilt_s(place.settings),
        place.finished_effects(run_id),
    )  # fmt: skip


def lose_message(place: Scratch) -> Case:
    """The message of an alarm that is due never reaches a worker."""
    lost = time.time()
    run_id = place.begin("once", rung=False)
    took_s = place.next_look(run_id, lost)
    return Case(
        "the message of an alarm was lost", "it was rung again from the index", took_s,
        diagnosis.rung_again_s(place.settings), place.finished_effects(run_id),
    )  # fmt: skip


def repeat_callback(place: Scratch) -> Case:
    """The same callback comes twice."""
    run_id = place.begin("answered")
    place.wait(lambda: place.row(run_id).awaiting == ANSWER)
    sent = time.time()
    for _ in range(2):
        place.app.database.write(lambda tx: _answer(tx, run_id, place.app.control.now()))
        place.app.ringer.ring([run_id])
    took_s = place.next_look(run_id, sent)
    place.finished_effects(run_id)
    place.wait(lambda: place.effects(run_id) > 1, _AFTERWARDS_S)
    return Case(
        "a callback came twice", "the first was taken, the second changed nothing", took_s,
        diagnosis.rung_again_s(place.settings), place.effects(run_id),
    )  # fmt: skip


def _answer(tx: Connection, run_id: RunId, now: float) -> None:
    """What the route of a callback does: the row first, once; a repeat after the end is told so."""
    run = get_run(tx, run_id, lock=True)
    if run is not None and run.finished_at is None:
        record_answer(tx, run, ANSWER, run_id, {"outcome": "done"}, actor="demonstration", now=now)


#: In the order in which they are shown. The killed worker comes first: it is not started again.
CASES: dict[str, Callable[[Scratch], Case]] = {
    "a worker is killed": kill_worker,
    "Redis is emptied": empty_redis,
    "an alarm's message is lost": lose_message,
    "a callback comes twice": repeat_callback,
}


@contextlib.contextmanager
def scratch(progress: Progress) -> Iterator[Scratch]:
    """The installation while the block runs; nothing of it is left afterwards. Raises ``InfrastructureError``."""
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="taskflow-demonstration-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        data_dir = DataDir(Settings(data_dir=str(folder)))
        progress.line("starting a scratch installation")
        progress.provisional("  a Redis, a database ...")
        stack.callback(progress.provisional, "")
        valkey = EmbeddedValkey(data_dir)
        stack.callback(valkey.stop)
        valkey.start()
        valkey.wait_ready()
        settings = Settings(data_dir=str(folder), redis_url=valkey.url, worker_concurrency=2)
        app = bootstrap(settings)
        stack.callback(app.close)
        upgrade(app.database.engine)
        progress.provisional("  two workers ...")
        workers = [_worker(name, settings, data_dir) for name in _WORKERS]
        for worker in workers:
            stack.callback(worker.kill)
            worker.start()
        for worker in workers:
            worker.wait_ready(worker.spec.ready_timeout_s)
        yield Scratch(folder, app, workers)


def _worker(name: str, settings: Settings, data_dir: DataDir) -> SupervisedProcess:
    ready = data_dir.run / f"{name}.ready"
    argv = (
        sys.executable, "-m", "celery", "-A", "taskflow.cli.demo_worker", "worker", "-Q", "alarm,sweep",
        "--concurrency", "2", "--loglevel", "WARNING", "--without-gossip", "--without-mingle", "-n", f"{name}@%h",
    )  # fmt: skip
    # What a killed process leaves in the directory for temporary files goes with the rest.
    env = {READY_FILE: str(ready), LOOKS: str(data_dir.root / "looks"), "TMPDIR": str(data_dir.run)}
    spec = ProcessSpec(name=f"worker-{name}", argv=argv, env=env, ready=ready.exists, stop_signals=())
    return SupervisedProcess(
        spec, child_environment(settings, data_dir.supervisor_lock), data_dir.logs / f"{name}.log", data_dir.run
    )
