"""The audit trail in SQL: rows are added, read newest first, and deleted when they are old; none is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from taskflow.db.account_models import AuditRow
from taskflow.db.models import Owner


@dataclass(frozen=True)
class AuditEntry:
    """One line of the trail. ``data`` is small and holds no secret and nothing of a body: facts such as a status."""

    action: str
    outcome: str
    actor: str
    owner_id: str | None = None
    token_id: str | None = None
    subject_kind: str | None = None
    subject_id: str | None = None
    request_id: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


def insert_audit(tx: Connection, entry: AuditEntry, now: float) -> None:
    """Add a line."""
    values = {**vars(entry), "data": dict(entry.data), "actor": entry.actor[:200], "at": now}
    tx.execute(insert(AuditRow).values(values))


def list_audit(tx: Connection, *, owner_id: str | None, before: int | None, limit: int) -> Sequence[Row[Any]]:
    """Lines older than the line ``before``, newest first; ``owner_id`` None: of all owners, and of nobody's."""
    lines = select(AuditRow.__table__, Owner.name.label("owner")).outerjoin(Owner, Owner.id == AuditRow.owner_id)
    if owner_id is not None:
        lines = lines.where(AuditRow.owner_id == owner_id)
    if before is not None:
        lines = lines.where(AuditRow.id < before)
    return tx.execute(lines.order_by(AuditRow.id.desc()).limit(limit)).all()


def prune_audit(tx: Connection, before: float, limit: int) -> int:
    """Delete lines from before ``before``, the oldest first; how many there were."""
    old = select(AuditRow.id).where(AuditRow.at < before).order_by(AuditRow.at).limit(limit)
    return tx.execute(delete(AuditRow).where(AuditRow.id.in_(old))).rowcount
