"""Delete what ended long ago: logs, signals, errors, keys and callback tokens of ended tasks, done outbox rows.

Tasks, runs and their events stay: they are the history.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, or_, select

from taskflow.db.models import (
    AgentSession,
    ErrorRow,
    IdempotencyKey,
    LogChunk,
    Node,
    OutboxRow,
    Run,
    SignalRow,
    Task,
    Token,
    Workspace,
)
from taskflow.db.session import Database


def prune(database: Database, *, before: float, limit: int) -> dict[str, Any]:
    """Delete rows of runs that finished before ``before``, of at most ``limit`` runs a call."""

    def work(tx: Connection) -> dict[str, Any]:
        old = (
            select(Run.id)
            .where(
                Run.finished_at < before,
                or_(
                    Run.id.in_(select(SignalRow.run_id)),
                    Run.id.in_(select(ErrorRow.run_id)),
                    Run.id.in_(select(AgentSession.run_id).join(LogChunk, LogChunk.session_id == AgentSession.id)),
                    Run.id.in_(select(Workspace.run_id).join(Token, Token.subject_id == Workspace.id)),
                ),
            )
            .limit(limit)
        )
        runs = [row.id for row in tx.execute(old).all()]
        sessions = select(AgentSession.id).where(AgentSession.run_id.in_(runs))
        done = {
            "logs": tx.execute(delete(LogChunk).where(LogChunk.session_id.in_(sessions))).rowcount,
            "signals": tx.execute(delete(SignalRow).where(SignalRow.run_id.in_(runs))).rowcount,
            "errors_deleted": tx.execute(delete(ErrorRow).where(ErrorRow.run_id.in_(runs))).rowcount,
            "idempotency_keys": tx.execute(
                delete(IdempotencyKey).where(
                    IdempotencyKey.task_id.in_(select(Task.id).where(Task.completed_at < before))
                )
            ).rowcount,
            # Until here a late report was still told that all is over, or kept; from now on its sender is nobody.
            "tokens": tx.execute(
                delete(Token).where(
                    or_(
                        Token.subject_id.in_(select(Workspace.id).where(Workspace.run_id.in_(runs))),
                        Token.subject_id.in_(select(Node.id).where(Node.destroyed_at < before)),
                    )
                )
            ).rowcount,
            "outbox": tx.execute(delete(OutboxRow).where(OutboxRow.done_at < before)).rowcount,
        }
        return {"runs": len(runs), **done}

    return database.write(work)
