"""The tables of who does what: browsers that are signed in, sign-in links, and the audit trail."""

from __future__ import annotations

from typing import Any

from sqlalchemy import DDL, CheckConstraint, ForeignKey, Index, String, event
from sqlalchemy.orm import Mapped, mapped_column

from taskflow.db.base import Base, Id, Serial, one_of

#: What came of what somebody asked for: it was done; they may not; it could not be.
AUDIT_OUTCOMES = ("done", "refused", "failed")


class BrowserSession(Base):
    """A browser that is signed in; it acts for the token it was signed in with, and ends with it. The cookie is hashed."""

    __tablename__ = "browser_sessions"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    token_id: Mapped[str] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"), index=True)
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    csrf_secret: Mapped[str] = mapped_column(String(64))
    user_agent: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[float]
    last_seen_at: Mapped[float]
    expires_at: Mapped[float] = mapped_column(index=True)


class SignInCode(Base):
    """What a sign-in link carries, hashed: it signs one browser in, once, for the token that asked for it."""

    __tablename__ = "sign_in_codes"
    code_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    token_id: Mapped[str] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[float]
    expires_at: Mapped[float] = mapped_column(index=True)
    used_at: Mapped[float | None]


class AuditRow(Base):
    """Append-only: who asked for which change, and what came of it. ``owner_id`` NULL: a caller nobody knows."""

    __tablename__ = "audit"
    __table_args__ = (
        CheckConstraint(one_of("outcome", AUDIT_OUTCOMES), name="outcome"),
        Index("ix_audit_owner", "owner_id", "id"),
        Index("ix_audit_at", "at"),
    )
    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    owner_id: Mapped[str | None] = mapped_column(ForeignKey("owners.id"))
    actor: Mapped[str] = mapped_column(String(200))
    token_id: Mapped[str | None] = mapped_column(Id)
    action: Mapped[str] = mapped_column(String(64))
    subject_kind: Mapped[str | None] = mapped_column(String(32))
    subject_id: Mapped[str | None] = mapped_column(String(80))
    request_id: Mapped[str | None] = mapped_column(String(64))
    outcome: Mapped[str] = mapped_column(String(16))
    data: Mapped[dict[str, Any]]
    at: Mapped[float]


#: No line is ever changed, whoever is at the database. Made by the migration in the same words.
_KEEPS_ITS_LINES = (
    (
        "sqlite",
        "CREATE TRIGGER audit_keeps_its_lines BEFORE UPDATE ON audit"
        " BEGIN SELECT RAISE(ABORT, 'a line of the audit trail is never changed'); END",
    ),
    (
        "postgresql",
        "CREATE OR REPLACE FUNCTION audit_keeps_its_lines() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'a line of the audit trail is never changed'; END $$",
    ),
    (
        "postgresql",
        "CREATE TRIGGER audit_keeps_its_lines BEFORE UPDATE ON audit"
        " FOR EACH ROW EXECUTE FUNCTION audit_keeps_its_lines()",
    ),
)
for _dialect, _statement in _KEEPS_ITS_LINES:
    event.listen(
        AuditRow.__table__,
        "after_create",
        DDL(_statement).execute_if(dialect=_dialect),  # type: ignore[no-untyped-call]
    )
