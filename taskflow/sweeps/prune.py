"""Delete what ended long ago, in two stages, each found by an index however much there is.

First logs, signals, errors, keys and callback tokens of ended runs, and done outbox rows. Much later the history: ended
tasks with their runs and events, ended runs of pipelines of one's own, and destroyed nodes that no task is left of.
Besides, failed attempts that are old, also of open runs, and after a day what sweeps remember of items that failed and were
not met again; browsers that are signed out and sign-in links; old lines of the audit trail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, exists, select, union, update

from taskflow.db.audit import prune_audit
from taskflow.db.browsers import prune_browsers
from taskflow.db.models import (
    AgentSession,
    ErrorRow,
    Event,
    IdempotencyKey,
    LogChunk,
    Node,
    OutboxRow,
    Run,
    SignalRow,
    SweepBackoff,
    Task,
    Token,
    Workspace,
)
from taskflow.db.own_models import OwnRun, RunCallback
from taskflow.db.own_runs import OWN, SUBJECT_KIND
from taskflow.db.session import Database
from taskflow.settings import Settings

#: Pages of one sweep: more than a busy installation ends between two sweeps, and still over within a minute.
_PAGES = 100
#: An item that still fails is tried within an hour or a few of its sweep's intervals; one that was not is gone.
_BACKOFF_KEPT_S = 86_400.0


def prune_all(database: Database, settings: Settings, now: float) -> dict[str, Any]:
    """Both stages, page after page, each in a transaction of its own; what is left is for the next sweep."""
    done: Counter[str] = Counter()
    # A task deleted before its run was pruned would leave the tokens of its workspaces behind.
    history_s = settings.history_after_s and max(settings.history_after_s, settings.prune_after_s)
    stages = (
        (prune, settings.prune_after_s, ("runs", "outbox")),
        (prune_history, history_s, ("tasks", "nodes", "own_runs")),
        (prune_accounts, settings.audit_after_s, ("browsers", "audit")),
    )
    for stage, keep_s, paged in stages:
        for _ in range(_PAGES):
            found = stage(database, now=now, keep_s=keep_s, limit=settings.sweep_page)
            done.update(found)
            if all(found[name] < settings.sweep_page for name in paged):
                break
    for _ in range(_PAGES):
        old = prune_errors(database, now=now, keep_s=settings.errors_after_s, limit=settings.sweep_page)
        done["errors_deleted"] += old
        if old < settings.sweep_page:
            break
    return {**done, "backoffs": database.write(lambda tx: _forget_backoffs(tx, now - _BACKOFF_KEPT_S))}


def _forget_backoffs(tx: Connection, before: float) -> int:
    return tx.execute(delete(SweepBackoff).where(SweepBackoff.next_at < before)).rowcount


def prune(database: Database, *, now: float, keep_s: float, limit: int) -> dict[str, Any]:
    """Delete what belongs to runs that finished ``keep_s`` ago; at most ``limit`` runs and outbox rows a call."""
    before = now - keep_s

    def work(tx: Connection) -> dict[str, Any]:
        old = select(Run.id).where(Run.finished_at < before, Run.pruned_at.is_(None))
        runs = tx.execute(old.order_by(Run.finished_at).limit(limit)).scalars().all()
        sent = select(OutboxRow.id).where(OutboxRow.done_at < before).order_by(OutboxRow.done_at).limit(limit)
        sessions = select(AgentSession.id).where(AgentSession.run_id.in_(runs))
        subjects = select(Run.subject_id).where(Run.id.in_(runs), Run.subject_kind == "task")
        tasks = select(Task.id).where(Task.id.in_(subjects), Task.completed_at < before)
        holders = union(
            select(Workspace.id).where(Workspace.run_id.in_(runs)),
            select(Node.id).where(Node.run_id.in_(runs), Node.destroyed_at.is_not(None)),
        )
        done = {
            "logs": tx.execute(delete(LogChunk).where(LogChunk.session_id.in_(sessions))).rowcount,
            "signals": tx.execute(delete(SignalRow).where(SignalRow.run_id.in_(runs))).rowcount,
            "errors_deleted": tx.execute(delete(ErrorRow).where(ErrorRow.run_id.in_(runs))).rowcount,
            "idempotency_keys": tx.execute(delete(IdempotencyKey).where(IdempotencyKey.task_id.in_(tasks))).rowcount,
            # Until here a late report was still told that all is over, or kept; from now on its sender is nobody.
            "tokens": tx.execute(delete(Token).where(Token.subject_id.in_(holders))).rowcount,
            "callbacks": tx.execute(delete(RunCallback).where(RunCallback.run_id.in_(runs))).rowcount,
            "outbox": tx.execute(delete(OutboxRow).where(OutboxRow.id.in_(sent))).rowcount,
        }
        tx.execute(update(OwnRun).where(OwnRun.run_id.in_(runs)).values(idempotency_key=None, request_hash=None))
        tx.execute(update(Run).where(Run.id.in_(runs)).values(pruned_at=now))
        return {"runs": len(runs), **done}

    return database.write(work)


def prune_errors(database: Database, *, now: float, keep_s: float, limit: int) -> int:
    """Delete failed attempts that are older than ``keep_s``, whatever became of their run; at most ``limit`` a call.

    A run that stays open (a node's that is kept) would gather them for ever. They were written in the order of their
    ids: only the first ones are looked at, and no index is needed.
    """
    oldest = select(ErrorRow.id, ErrorRow.at).order_by(ErrorRow.id).limit(limit).subquery()
    old = select(oldest.c.id).where(oldest.c.at < now - keep_s)
    return database.write(lambda tx: tx.execute(delete(ErrorRow).where(ErrorRow.id.in_(old))).rowcount)


def prune_history(database: Database, *, now: float, keep_s: float, limit: int) -> dict[str, Any]:
    """Delete tasks that ended ``keep_s`` ago and nodes destroyed then, with runs and events; ``keep_s`` 0 keeps them."""
    if not keep_s:
        return {"tasks": 0, "nodes": 0, "own_runs": 0}
    before = now - keep_s

    def work(tx: Connection) -> dict[str, Any]:
        open_run = exists().where(Run.subject_kind == "task", Run.subject_id == Task.id, Run.finished_at.is_(None))
        tasks = select(Task.id).where(Task.completed_at < before, ~open_run).order_by(Task.completed_at).limit(limit)
        of_tasks = tx.execute(tasks).scalars().all()
        _forget(tx, "task", of_tasks)
        tx.execute(delete(Task).where(Task.id.in_(of_tasks)))  # its workspaces, sessions and keys go with it
        used = exists().where(Workspace.node_id == Node.id)
        open_node_run = exists().where(
            Run.subject_kind == "node", Run.subject_id == Node.id, Run.finished_at.is_(None)
        )  # fmt: skip
        nodes = select(Node.id).where(Node.destroyed_at < before, ~used, ~open_node_run)
        of_nodes = tx.execute(nodes.order_by(Node.destroyed_at).limit(limit)).scalars().all()
        _forget(tx, "node", of_nodes)
        tx.execute(delete(Node).where(Node.id.in_(of_nodes)))
        return {"tasks": len(of_tasks), "nodes": len(of_nodes), "own_runs": _forget_own_runs(tx, before, limit)}

    return database.write(work)


def prune_accounts(database: Database, *, now: float, keep_s: float, limit: int) -> dict[str, Any]:
    """Delete what signed-out browsers leave, and lines of the audit trail older than ``keep_s``; 0 keeps those."""

    def work(tx: Connection) -> dict[str, Any]:
        lines = prune_audit(tx, now - keep_s, limit) if keep_s else 0
        return {"browsers": prune_browsers(tx, now, limit), "audit": lines}

    return database.write(work)


def _forget_own_runs(tx: Connection, before: float, limit: int) -> int:
    """Runs that ended before, each with its events; what its subject did since is kept."""
    old = select(Run.id, Run.subject_id).where(OWN, Run.finished_at.is_not(None), Run.finished_at < before)
    rows = tx.execute(old.order_by(Run.finished_at).limit(limit)).all()
    runs, subjects = [row.id for row in rows], {row.subject_id for row in rows}
    tx.execute(delete(ErrorRow).where(ErrorRow.run_id.in_(runs)))
    of_runs = Event.subject_kind == SUBJECT_KIND, Event.subject_id.in_(subjects), Event.run_id.in_(runs)
    tx.execute(delete(Event).where(*of_runs))
    tx.execute(delete(Run).where(Run.id.in_(runs)))
    return len(runs)


def _forget(tx: Connection, kind: str, subjects: Sequence[str]) -> None:
    """Runs of these subjects, with their signals, and their events."""
    runs = select(Run.id).where(Run.subject_kind == kind, Run.subject_id.in_(subjects))
    tx.execute(delete(ErrorRow).where(ErrorRow.run_id.in_(runs)))
    tx.execute(delete(Event).where(Event.subject_kind == kind, Event.subject_id.in_(subjects)))
    tx.execute(delete(Run).where(Run.subject_kind == kind, Run.subject_id.in_(subjects)))
