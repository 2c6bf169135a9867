"""The slow backup of alarms and signals, and the rebuilding of control state that was lost.

It goes through open runs by cursor, in bounded pages, and through the keys the other way. It never takes a lease: it
must not need what it is there to cure. ``run_id`` decides, never the status of a subject.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from taskflow.clock import Clock
from taskflow.engine.alarms import Ringer
from taskflow.engine.control import Control, Pumped
from taskflow.engine.meter import SILENT, Meter
from taskflow.engine.store import Store

log = structlog.get_logger(__name__)

#: SCANs of one call of ``sweep_some_keys``.
_SCANS = 10


@dataclass(frozen=True)
class Rescued:
    """What a rescue did: runs looked at, control state rebuilt, runs rung for a recorded signal, leftovers deleted."""

    looked_at: int = 0
    rebuilt: int = 0
    rung: int = 0
    forgotten: int = 0
    cursor: str = ""


class Rescue:
    """Pages of the rescue, and the reconcile that follows the loss of control state."""

    def __init__(self, store: Store, control: Control, ringer: Ringer, *, page: int, meter: Meter = SILENT) -> None:
        self._store = store
        self._control = control
        self._ringer = ringer
        self._page = page
        self._meter = meter

    def page(self, cursor: str = "") -> Rescued:
        """One page from ``cursor`` on; the returned cursor is '' after the last page."""
        rows = self._store.open_runs(cursor, self._page)
        alarms = self._control.ensure(rows)
        self._ringer.publish(alarms)
        waiting = self._store.runs_with_awaited_signal(self._page)
        self._ringer.ring(waiting, due_too=False)
        if alarms:
            log.warning("control_state_rebuilt", runs=len(alarms))
        self._meter.rescued(rebuilt=len(alarms), rung=len(waiting))
        return Rescued(
            looked_at=len(rows),
            rebuilt=len(alarms),
            rung=len(waiting),
            cursor=rows[-1].id if len(rows) == self._page else "",
        )

    def sweep_keys(self, shard: int) -> int:
        """Delete control state of runs that SQL says are finished or unknown, of a whole shard; how many."""
        forgotten, cursor = self.sweep_some_keys(shard, 0)
        while cursor:
            more, cursor = self.sweep_some_keys(shard, cursor)
            forgotten += more
        return forgotten

    def sweep_some_keys(self, shard: int, cursor: int) -> tuple[int, int]:
        """The same for a bounded number of keys: how many were deleted, and the cursor to go on from; 0 at the end."""
        forgotten = 0
        for _ in range(_SCANS):
            runs, cursor = self._control.known_runs(shard, cursor)
            for run_id in self._store.finished_or_unknown(runs) if runs else ():
                self._control.forget(run_id)
                forgotten += 1
            if not cursor:
                break
        return forgotten, cursor

    def reconcile(self) -> Rescued:
        """Everything at once: every open run ensured, every leftover deleted, then the incarnation written to SQL.

        SQL comes last: a crash before that makes the next process do it again. So does a store that is emptied while
        this runs: the incarnation marked at the start is gone then, and SQL is told one that nobody will see.
        """
        server = self._control.server_run_id()
        marks = {shard: self._control.mark_incarnation(shard) for shard in range(self._control.shards)}
        looked_at = rebuilt = rung = forgotten = 0
        cursor = ""
        while True:
            done = self.page(cursor)
            looked_at, rebuilt, rung = looked_at + done.looked_at, rebuilt + done.rebuilt, rung + done.rung
            cursor = done.cursor
            if not cursor:
                break
        for shard in range(self._control.shards):
            forgotten += self.sweep_keys(shard)
        now = self._control.now()
        for shard, mark in marks.items():
            self._store.write_incarnation(shard, f"{mark}@{server}", now)
        log.info("control_state_reconciled", runs=looked_at, rebuilt=rebuilt, forgotten=forgotten)
        return Rescued(looked_at, rebuilt, rung, forgotten)


class Watch:
    """Sees that the control state is another one (emptied, restarted, failed over) and reconciles, in any process.

    Fed by every pump tick. The server's run id costs a round trip of its own and is asked once a second.
    """

    SERVER_CHECK_S = 1.0

    def __init__(self, rescue: Rescue, store: Store, control: Control, clock: Clock) -> None:
        self._rescue = rescue
        self._store = store
        self._control = control
        self._clock = clock
        self._expected: Mapping[int, str] = {}
        self._server = ""
        self._server_asked = float("-inf")
        self._mutex = threading.Lock()

    def saw(self, answers: list[Pumped]) -> bool:
        """Compare what the shards answered with what was reconciled; True when a reconcile was run."""
        now = self._clock.monotonic()
        if now - self._server_asked >= self.SERVER_CHECK_S:
            self._server = self._control.server_run_id()
            self._server_asked = now
        if self._agrees(answers):
            return False
        self._expected = self._store.incarnations()
        if self._agrees(answers):
            return False
        with self._mutex:
            # Several processes may do this at once: every part of it is idempotent, and no lock can be left behind.
            self._rescue.reconcile()
            self._expected = self._store.incarnations()
        return True

    def _agrees(self, answers: list[Pumped]) -> bool:
        return all(
            answer.incarnation and self._expected.get(answer.shard) == f"{answer.incarnation}@{self._server}"
            for answer in answers
        )
