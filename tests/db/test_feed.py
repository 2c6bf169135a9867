"""One order over the events of all subjects: nothing that is committed late is skipped, nothing comes twice."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, text, update

from taskflow.db.events import append_event
from taskflow.db.feed import BEGINNING, CommitWatch, Position, feed_after, feed_end, settle_restored
from taskflow.db.models import Event, Owner
from taskflow.db.session import Database, is_postgresql, make_engine
from taskflow.errors import InfrastructureError
from tests.db.conftest import OWNER, World
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

OTHER = "owner-2"


def _append(tx: Any, subject: str, kind: str = "k", owner: str = OWNER) -> None:
    append_event(tx, owner_id=owner, subject_kind="task", subject_id=subject, kind=kind, actor="a", at=1.0)


class Reader:
    """Reads on from its last place, a few rows at a time."""

    def __init__(self, database: Database, place: Position = BEGINNING, limit: int = 3) -> None:
        self.database, self.place, self.limit = database, place, limit
        self.seen: list[tuple[str, int]] = []

    def read(self) -> list[tuple[str, int]]:
        """Everything that is new: subject and ``seq``."""
        found: list[tuple[str, int]] = []
        while True:
            with self.database.read() as tx:
                rows = feed_after(tx, OWNER, self.place, self.limit)
            if not rows:
                self.seen += found
                return found
            found += [(row.subject_id, row.seq) for row in rows]
            self.place = Position(rows[-1].xact, rows[-1].id)

    def reaches(self, count: int) -> bool:
        """Whether there was news, or there is as much as that by now."""
        return bool(self.read()) or len(self.seen) >= count

    def sees(self, *expected: tuple[str, int]) -> bool:
        """Whether exactly these are what it saw since its beginning. The server's own housekeeping is a transaction too,
        and may hold rows up for a moment."""
        wait_until(lambda: self.reaches(len(expected)), "the feed shows what was committed")
        return self.seen == list(expected) and self.read() == []


@pytest.fixture
def postgres_world(postgres_server: Any, postgres_template: str) -> Iterator[World]:
    """One owner on PostgreSQL, where transactions write side by side."""
    from tests.support.databases import _postgres_database

    for url in _postgres_database(postgres_server, postgres_template):
        engine = make_engine(url)
        yield World(Database(engine))
        engine.dispose()


def test_a_row_that_commits_late_is_neither_skipped_nor_repeated(postgres_world: World) -> None:
    """The first to insert commits last; a reader that looks in between, and goes on after it, sees each once."""
    engine = postgres_world.database.engine
    reader = Reader(postgres_world.database)
    with engine.connect() as slow, engine.connect() as quick:
        first = slow.begin()
        _append(slow, "slow")
        second = quick.begin()
        _append(quick, "quick")
        second.commit()
        assert reader.read() == [], "what was committed after a transaction that still runs is not shown yet"
        first.commit()
    assert reader.sees(("slow", 1), ("quick", 1))


def test_a_transaction_that_is_given_up_holds_nothing_up(postgres_world: World) -> None:
    """Its rows never come, the others do."""
    reader = Reader(postgres_world.database)
    with postgres_world.database.engine.connect() as slow:
        first = slow.begin()
        _append(slow, "slow")
        postgres_world.write(lambda tx: _append(tx, "quick"))
        first.rollback()
    assert reader.sees(("quick", 1))


def test_many_writers_and_readers_lose_and_repeat_nothing(world: World) -> None:
    """Threads append, commit or give up in any order while readers follow: each sees every committed event once, those
    of one subject in order."""
    stop, lock = threading.Event(), threading.Lock()
    committed: list[tuple[str, int]] = []
    errors: list[Exception] = []
    readers = [Reader(world.database, limit=limit) for limit in (1, 3, 50)]

    def write(number: int) -> None:
        chance = random.Random(number)
        subject, seq = f"task-{number}", 0
        engine = world.database.engine.execution_options(taskflow_writes=True)
        for _ in range(25):
            count, keeps = chance.randint(1, 3), chance.random() < 0.8
            with engine.connect() as tx:
                transaction = tx.begin()
                for _ in range(count):
                    _append(tx, subject)
                    stop.wait(chance.random() * 0.002)  # so that transactions overlap
                transaction.commit() if keeps else transaction.rollback()
            if keeps:
                with lock:
                    committed.extend((subject, seq + n + 1) for n in range(count))
                seq += count

    def follow(reader: Reader) -> None:
        while not stop.is_set():
            reader.read()

    def guarded(work: Any, argument: Any) -> None:
        try:
            work(argument)
        except Exception as error:
            errors.append(error)

    writing = [threading.Thread(target=guarded, args=(write, n)) for n in range(6)]
    reading = [threading.Thread(target=guarded, args=(follow, reader)) for reader in readers]
    for thread in (*writing, *reading):
        thread.start()
    for thread in writing:
        thread.join(60)
    stop.set()
    for thread in reading:
        thread.join(60)
    assert errors == []
    for reader in readers:
        wait_until(partial(reader.reaches, len(committed)), "all is read")
        assert sorted(reader.seen) == sorted(committed)
        for subject in {subject for subject, _ in committed}:
            seqs = [seq for one, seq in reader.seen if one == subject]
            assert seqs == sorted(seqs)


def test_an_owner_reads_their_own_events_only(world: World) -> None:
    """Another owner's events are not in the feed, and don't end a page early."""
    world.write(lambda tx: tx.execute(insert(Owner).values(id=OTHER, name=OTHER, created_at=0.0)))
    for number in range(4):
        world.write(partial(_append, subject=f"theirs-{number}", owner=OTHER))
        world.write(partial(_append, subject=f"mine-{number}"))
    assert Reader(world.database, limit=2).sees(*[(f"mine-{n}", 1) for n in range(4)])


def test_the_end_of_the_feed_is_after_all_that_was_and_before_all_that_comes(world: World) -> None:
    """Who begins there sees exactly what happens from then on."""
    world.write(lambda tx: _append(tx, "before"))
    assert Reader(world.database).sees(("before", 1))
    with world.database.read() as tx:
        reader = Reader(world.database, feed_end(tx))
    world.write(lambda tx: _append(tx, "after"))
    assert reader.sees(("after", 1))


def test_the_end_of_the_feed_is_before_what_still_runs(postgres_world: World) -> None:
    """A transaction that had begun when the end was asked for is news when it commits."""
    with postgres_world.database.engine.connect() as slow:
        first = slow.begin()
        _append(slow, "slow")
        with postgres_world.database.read() as tx:
            reader = Reader(postgres_world.database, feed_end(tx))
        first.commit()
    assert reader.sees(("slow", 1))


def test_a_restored_database_is_read_on(postgres_world: World) -> None:
    """In another server, whose transactions are numbered lower, old events are shown, new ones come after them, and a
    reader of before the restore goes on without a repeat."""
    for name in ("a", "b"):
        postgres_world.write(partial(_append, subject=name))
    postgres_world.write(lambda tx: tx.execute(update(Event).values(xact=2**40 + Event.id)))
    with postgres_world.database.read() as tx:
        last = tx.execute(text("SELECT xact, id FROM events WHERE subject_id = 'a'")).one()
    assert Reader(postgres_world.database).read() == [], "hidden before it is settled"
    postgres_world.write(settle_restored)
    postgres_world.write(lambda tx: _append(tx, "c"))
    assert Reader(postgres_world.database).sees(("a", 1), ("b", 1), ("c", 1))
    assert Reader(postgres_world.database, Position(*last)).sees(("b", 1), ("c", 1))


def test_a_commit_is_noticed_without_reading_a_table(world: World, engine: Engine) -> None:
    """The watch says so after any commit, of another connection too, and is quiet when nothing happens."""
    other = Database(make_engine(engine.url.render_as_string(hide_password=False)))
    watch = CommitWatch(world.database)
    assert watch.changed()
    wait_until(lambda: not watch.changed(), "nothing happens")  # a server's own housekeeping may be one commit
    other.write(lambda tx: _append(tx, "x"))
    assert watch.changed()
    if is_postgresql(engine):
        with engine.connect() as slow:
            first = slow.begin()
            _append(slow, "y")
            watch.changed()
            first.commit()
            assert watch.changed()
    watch.close()
    other.dispose()


def test_a_database_that_can_not_be_opened_is_told_as_one_that_is_away(tmp_path: Path) -> None:
    """The thread that watches for every stream lives on and tries again: it knows no other error."""
    away = Database(make_engine(f"sqlite:///{tmp_path / 'nowhere' / 'taskflow.db'}"))
    with pytest.raises(InfrastructureError):
        CommitWatch(away)
    away.dispose()
