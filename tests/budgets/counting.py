"""Counts what an operation asks of the outside: round trips and commands, not seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis
from sqlalchemy import Engine, event

from taskflow.engine.control import Alarm


@dataclass
class Cost:
    """``sql``: statements; ``commits``: writing transactions; ``sql_trips``, ``redis_trips``: questions waited for.

    ``said`` has them one by one, for whoever looks for the one too many.
    """

    sql: int = 0
    commits: int = 0
    sql_trips: int = 0
    redis_trips: int = 0
    publishes: int = 0
    said: list[str] = field(default_factory=list)

    def counts(self) -> tuple[int, int, int, int, int]:
        """In the order of the budget's columns."""
        return self.sql, self.commits, self.sql_trips, self.redis_trips, self.publishes


class CountingRedis(redis.Redis):
    """Every command, and every pipeline, is one round trip."""

    cost: Cost | None = None

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Count and go on."""
        if self.cost is not None:
            self.cost.redis_trips += 1
            self.cost.said.append(f"redis {args[0]}")
        return super().execute_command(*args, **options)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        """Its ``execute`` is counted, not what is put into it."""
        pipe = super().pipeline(transaction, shard_hint)
        execute = pipe.execute

        def counted(*args: Any, **kwargs: Any) -> Any:
            if self.cost is not None:
                self.cost.redis_trips += 1
                self.cost.said.append("redis pipeline")
            return execute(*args, **kwargs)

        pipe.execute = counted  # type: ignore[method-assign]
        return pipe


class CountingPublisher:
    """Takes hints and sends none."""

    def __init__(self) -> None:
        self.cost: Cost | None = None

    def publish(self, alarm: Alarm) -> None:
        """Count."""
        if self.cost is not None:
            self.cost.publishes += 1
            self.cost.said.append("publish")

    def backlog(self) -> int:
        """Nothing ever waits."""
        return 0


class Counter:
    """Counts for the ``with`` block of ``counted``."""

    def __init__(self, engine: Engine, client: CountingRedis, publisher: CountingPublisher) -> None:
        self._client, self._publisher = client, publisher
        self._cost: Cost | None = None
        self._wrote = False
        event.listen(engine, "before_cursor_execute", self._on_statement)
        self._commit, engine.dialect.do_commit = engine.dialect.do_commit, self._on_commit  # type: ignore[method-assign]

    @contextmanager
    def counted(self) -> Iterator[Cost]:
        """What the block costs."""
        cost = Cost()
        self._cost = self._client.cost = self._publisher.cost = cost
        try:
            yield cost
        finally:
            self._cost = self._client.cost = self._publisher.cost = None

    def _on_statement(self, connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if self._cost is None:
            return
        self._cost.said.append(f"sql {' '.join(statement.split())[:90]}")
        self._cost.sql_trips += 1
        if statement.startswith("BEGIN"):
            return
        self._cost.sql += 1
        writes = statement.split(None, 1)[0] in ("INSERT", "UPDATE", "DELETE", "WITH")
        if connection.get_execution_options().get("taskflow_alone", False):
            self._cost.commits += writes  # the statement is its own transaction
        else:
            self._wrote = self._wrote or writes

    def _on_commit(self, dbapi_connection: Any) -> None:
        if self._cost is not None and _in_transaction(dbapi_connection):
            self._cost.sql_trips += 1
            self._cost.commits += self._wrote
            self._cost.said.append("sql COMMIT")
        self._wrote = False
        self._commit(dbapi_connection)


def _in_transaction(connection: Any) -> bool:
    info = getattr(connection.dbapi_connection, "info", None)
    return info is None or bool(info.transaction_status)  # psycopg sends no COMMIT outside of a transaction
