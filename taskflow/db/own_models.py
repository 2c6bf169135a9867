"""The tables of pipelines of one's own."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from taskflow.db.base import Base, partial


class OwnRun(Base):
    """What is known besides of a run of somebody's own pipeline. Its input is in the run's results.

    Runs of one owner and pipeline with the same ``subject`` share a subject of ``runs``: at most one of them is open.
    """

    __tablename__ = "own_runs"
    __table_args__ = (
        UniqueConstraint("owner_id", "idempotency_key"),
        Index("ix_own_runs_owner", "owner_id", "run_id"),
        partial("ix_own_runs_subject", "owner_id", "subject", "run_id", where="subject IS NOT NULL"),
    )
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"))
    subject: Mapped[str | None] = mapped_column(String(200))
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    request_hash: Mapped[str | None] = mapped_column(String(64))


class RunCallback(Base):
    """A token, hashed, with which somebody outside may send one signal to one run."""

    __tablename__ = "run_callbacks"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    signal: Mapped[str] = mapped_column(String(64), primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[float]
    expires_at: Mapped[float]
