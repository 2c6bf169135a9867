"""The audit trail: who asked for which change, when, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row

from taskflow.clock import Clock, isoformat
from taskflow.db.audit import AuditEntry, insert_audit, list_audit
from taskflow.db.session import Database
from taskflow.service.accounts import Caller
from taskflow.service.pages import PAGE_MAX, decode_cursor, encode_cursor, page_size

__all__ = ["PAGE_MAX", "Audit", "AuditEntry"]


class Audit:
    """See the module. Every request that writes is a line, and so are sign-ins and what is done to tokens."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def record(self, entry: AuditEntry) -> None:
        """Add a line of its own transaction."""
        now = self._clock.now()
        self._database.write(lambda tx: insert_audit(tx, entry, now))

    def page(
        self, caller: Caller, *, limit: int = 50, cursor: str | None = None
    ) -> tuple[Sequence[dict[str, Any]], str | None]:
        """Lines of the caller's owner, newest first, and the cursor of the next page (None after the last). Raises
        ``UsageError``."""
        return self._page(caller.owner_id, limit, cursor)

    def page_of_all(self, *, limit: int = 50, cursor: str | None = None) -> tuple[Sequence[dict[str, Any]], str | None]:
        """The same of all owners, with the failed sign-ins of nobody: for who operates the installation."""
        return self._page(None, limit, cursor)

    def _page(
        self, owner_id: str | None, limit: int, cursor: str | None
    ) -> tuple[Sequence[dict[str, Any]], str | None]:
        before = decode_cursor(cursor, int)[0] if cursor else None
        with self._database.read() as tx:
            rows = list_audit(tx, owner_id=owner_id, before=before, limit=page_size(limit))
        page = rows[: page_size(limit) - 1]
        return [_view(row) for row in page], encode_cursor(page[-1].id) if len(rows) > len(page) else None


def _view(row: Row[Any]) -> dict[str, Any]:
    return {
        "at": isoformat(row.at),
        "owner": row.owner,
        "actor": row.actor,
        "token_id": row.token_id,
        "action": row.action,
        "subject_kind": row.subject_kind,
        "subject_id": row.subject_id,
        "outcome": row.outcome,
        "request_id": row.request_id,
        "data": row.data,
    }
