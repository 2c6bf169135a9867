"""The items of a sweep: a fair page of them, each treated by itself, and those that failed left alone for a while.

An item that fails rests (``sweep_backoffs``), longer each time, and is left out of the page by the query itself: items that
always fail can't keep the others from their turn (L-23). A page begins after where the last one ended, and wraps. What one
item raises never ends the sweep (L-43), and is never lost either: it is counted, kept with the item and shown (L-89).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import redis
import structlog
from sqlalchemy import Connection, Row, delete, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from taskflow.db.models import SweepBackoff
from taskflow.db.session import Database
from taskflow.errors import InfrastructureError, TaskflowError
from taskflow.logs import mask
from taskflow.sweeps.ledger import Memory

log = structlog.get_logger(__name__)

Item = TypeVar("Item")

_FIRST_REST_S = 60.0
_LONGEST_REST_S = 3600.0
#: From here on the same item failing is said as an error: it will not mend by itself.
_ALARMING = 3
#: A sweep begins no further item after this: what is left is first at its next run.
_BUDGET_S = 60.0


@dataclass(frozen=True)
class Items:
    """The items of one sweep, in one run of it. ``limit``: how many a page has."""

    database: Database
    memory: Memory
    now: Callable[[], float]
    limit: int

    def page(self, statement: Any, key: Any, *, column: str = "id", of: str = "") -> list[Row[Any]]:
        """At most ``limit`` rows of ``statement``, in the order of ``key`` (text that names the item, ``column`` of the
        rows), after the last page's, without those that rest. ``of`` tells two pages of one sweep apart."""
        rests = exists().where(
            SweepBackoff.sweep == self.memory.name, SweepBackoff.item == key, SweepBackoff.next_at > self.now()
        )
        with self.database.read() as tx:
            rows = tx.execute(
                statement.where(key > self.memory.after(of), ~rests).order_by(key).limit(self.limit)
            ).all()
        self.memory.go_on(of, getattr(rows[-1], column) if len(rows) == self.limit else "")
        return list(rows)

    def choose(self, items: Mapping[str, Item], limit: int) -> list[tuple[str, Item]]:
        """The same for items that are not rows: at most ``limit`` of them, in the order of their names, after the last
        choice, without those that rest. Wraps at once: who is alone is chosen each time."""
        resting = self._resting(list(items))
        names = sorted(name for name in items if name not in resting)
        after = self.memory.after("")
        chosen = ([name for name in names if name > after] + [name for name in names if name <= after])[:limit]
        if chosen:
            self.memory.go_on("", chosen[-1])
        return [(name, items[name]) for name in chosen]

    def awake(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that don't rest, in their order."""
        names = list(names)
        resting = self._resting(names)
        return [name for name in names if name not in resting]

    def each(self, items: Iterable[tuple[str, Item]], treat: Callable[[Item], bool]) -> dict[str, Any]:
        """``treat`` each (name, item): True when something was done, False when nothing had to be. What it raises makes
        the item rest. ``{"done", "failed", "skipped"}``: skipped are those of the sweep that rest now.

        Raises ``InfrastructureError`` or what Redis raises when a store is away: that is no item's fault.
        """
        began, done, failed = self.now(), 0, 0
        found = list(items)
        known = self._known([name for name, _ in found])
        for number, (name, item) in enumerate(found):
            if number and self.now() - began > _BUDGET_S:
                self.memory.go_on("", found[number - 1][0])
                log.warning("sweep_out_of_time", sweep=self.memory.name, left=len(found) - number)
                break
            try:
                done += treat(item)
            except (InfrastructureError, redis.RedisError):
                raise
            except Exception as error:
                failed += 1
                self._rest(name, error)
            else:
                if name in known:
                    self.database.write(partial(self._forget, name))
        return {"done": done, "failed": failed, "skipped": self._count_resting() - failed}

    # --- inside

    def _of(self, name: str) -> tuple[Any, Any]:
        return SweepBackoff.sweep == self.memory.name, SweepBackoff.item == name

    def _forget(self, name: str, tx: Connection) -> None:
        tx.execute(delete(SweepBackoff).where(*self._of(name)))

    def _rest(self, name: str, error: Exception) -> None:
        said = stored_error(error)
        try:
            failures = self.database.write(lambda tx: self._write_rest(tx, name, said))
        except IntegrityError:
            # The same sweep, run twice at once, failed at the same item a moment ago.
            failures = self.database.write(lambda tx: self._write_rest(tx, name, said))
        say = log.error if failures >= _ALARMING else log.warning
        say("sweep_item_failed", sweep=self.memory.name, item=name, failures=failures, code=said["code"],
            error=said["message"])  # fmt: skip

    def _write_rest(self, tx: Connection, name: str, said: Mapping[str, Any]) -> int:
        before = tx.execute(select(SweepBackoff.failures).where(*self._of(name))).scalar() or 0
        values = {"failures": before + 1, "next_at": self.now() + rest_s(before + 1), "error": dict(said)}
        if before:
            tx.execute(update(SweepBackoff).where(*self._of(name)).values(**values))
        else:
            tx.execute(insert(SweepBackoff).values(sweep=self.memory.name, item=name, **values))
        return before + 1

    def _known(self, names: Sequence[str], *more: Any) -> set[str]:
        found: set[str] = set()
        with self.database.read() as tx:
            for begin in range(0, len(names), 500):
                these = SweepBackoff.item.in_(names[begin : begin + 500])
                found |= set(
                    tx.execute(
                        select(SweepBackoff.item).where(SweepBackoff.sweep == self.memory.name, these, *more)
                    ).scalars()
                )
        return found

    def _resting(self, names: Sequence[str]) -> set[str]:
        return self._known(names, SweepBackoff.next_at > self.now())

    def _count_resting(self) -> int:
        resting = SweepBackoff.sweep == self.memory.name, SweepBackoff.next_at > self.now()
        with self.database.read() as tx:
            return tx.execute(select(func.count()).select_from(SweepBackoff).where(*resting)).scalar_one()


def stored_error(error: Exception) -> dict[str, Any]:
    """An error as it is kept with what failed: its code and message, without secrets."""
    if not isinstance(error, TaskflowError):
        error = TaskflowError(f"{type(error).__name__}: {error}", code="unexpected")
    return dict(mask(error.as_dict()))


def rest_s(failures: int) -> float:
    """How long an item is left alone after so many failures in a row, in seconds: a minute, doubled, an hour at most."""
    return min(_LONGEST_REST_S, _FIRST_REST_S * 2.0 ** min(failures - 1, 10))


def count_failing_items(tx: Connection) -> dict[str, int]:
    """By sweep, at how many things it fails."""
    rows = tx.execute(select(SweepBackoff.sweep, func.count().label("items")).group_by(SweepBackoff.sweep))
    return {row.sweep: row.items for row in rows}


def failing_items(database: Database, limit: int = 20) -> dict[str, list[dict[str, Any]]]:
    """By sweep, what it fails at: ``{"item", "failures", "error"}``, those that fail longest first."""
    with database.read() as tx:
        rows = tx.execute(
            select(SweepBackoff.sweep, SweepBackoff.item, SweepBackoff.failures, SweepBackoff.error)
            .order_by(SweepBackoff.failures.desc(), SweepBackoff.sweep, SweepBackoff.item)
            .limit(limit)
        ).all()
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        said = {"item": row.item, "failures": row.failures, "error": row.error}
        found.setdefault(row.sweep, []).append(said)
    return found
