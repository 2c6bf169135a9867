"""The agent's one SQLite file, and the only code that reads or writes it.

Each method is one transaction. What must happen together (a status and the message that tells of it) is one method, so
a crash leaves both or neither. One connection under one lock: the agent makes a few small writes per second.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskflow.agent.problems import StartRefused
from taskflow.agent.wire import Key

_VERSION = 2
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE workspaces (
    id TEXT PRIMARY KEY,
    digest TEXT NOT NULL,              -- keyed hash of the content that a repeat is compared by
    fence INTEGER NOT NULL,            -- highest seen
    callback_token TEXT NOT NULL,
    token_generation INTEGER NOT NULL DEFAULT 0,  -- of the callback token: how often it was renewed
    payload TEXT,                      -- the order, until provisioning is over: a restart begins again from it
    status TEXT NOT NULL,
    run TEXT NOT NULL,                 -- task_id, run_number, output_branch
    clone TEXT,                        -- base_commit, origin_url, cloned_branch, default_branch
    error TEXT,
    silenced INTEGER NOT NULL DEFAULT 0  -- the control plane said that it wants to hear no more
);
CREATE TABLE tombstones (id TEXT PRIMARY KEY, fence INTEGER NOT NULL, deleted_at REAL NOT NULL);
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    status TEXT NOT NULL,              -- starting (never shown), running, finishing, ended
    plan TEXT NOT NULL,                -- commit_message, push; no secret, no environment
    exit TEXT,                         -- what the shim reported
    outcome TEXT,
    logs_dropped INTEGER NOT NULL DEFAULT 0,
    reported INTEGER NOT NULL DEFAULT 0  -- its outcome is, or was, in the outbox
);
CREATE TABLE log_chunks (
    session_id TEXT NOT NULL, number INTEGER NOT NULL, start INTEGER NOT NULL, length INTEGER NOT NULL,
    acknowledged INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (session_id, number)
) WITHOUT ROWID;
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    delivery_id TEXT NOT NULL UNIQUE,  -- a message is put in once, however often its cause is repeated
    workspace_id TEXT NOT NULL,        -- the destination: order is kept within it, and its token is used
    path TEXT NOT NULL,
    payload TEXT NOT NULL,             -- the exact bytes of each attempt
    next_at REAL NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0
);
"""
#: What makes a file of this version one of the next.
_UPGRADES = {
    1: "ALTER TABLE workspaces ADD COLUMN token_generation INTEGER NOT NULL DEFAULT 0;",
}


@dataclass(frozen=True)
class Workspace:
    """A workspace as stored. ``payload`` is there only while it is being provisioned."""

    id: str
    digest: str
    fence: int
    callback_token: str
    token_generation: int
    payload: dict[str, Any] | None
    status: str
    run: dict[str, Any]
    clone: dict[str, Any] | None
    error: dict[str, Any] | None
    silenced: bool

    @property
    def key(self) -> Key:
        """What is told of it is signed with."""
        return Key.of_workspace(self.id, self.token_generation, self.callback_token)


@dataclass(frozen=True)
class Session:
    """A session as stored."""

    id: str
    workspace_id: str
    digest: str
    status: str
    plan: dict[str, Any]
    exit: dict[str, Any] | None
    outcome: dict[str, Any] | None
    logs_dropped: bool
    reported: bool


@dataclass(frozen=True)
class Chunk:
    """A piece of a session's output file: bytes ``start`` to ``start + length``."""

    number: int
    start: int
    length: int


@dataclass(frozen=True)
class Delivery:
    """A message in the outbox."""

    seq: int
    delivery_id: str
    workspace_id: str
    path: str
    payload: str
    next_at: float
    attempts: int


def _decoded(value: str | None) -> dict[str, Any] | None:
    return json.loads(value) if value is not None else None


def _workspace(row: sqlite3.Row) -> Workspace:
    data = dict(row)
    for key in ("payload", "run", "clone", "error"):
        data[key] = _decoded(data[key])
    data["silenced"] = bool(data["silenced"])
    return Workspace(**data)


def _session(row: sqlite3.Row) -> Session:
    data = dict(row)
    for key in ("plan", "exit", "outcome"):
        data[key] = _decoded(data[key])
    data["logs_dropped"], data["reported"] = bool(data["logs_dropped"]), bool(data["reported"])
    return Session(**data)


class Store:
    """All durable state of one agent. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Open or make the file (mode 0600). Raises ``StartRefused`` for a file of a newer agent."""
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        path.chmod(0o600)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        # FULL: what was answered with 2xx must survive a power cut, not only a crash of the process.
        self._db.execute("PRAGMA synchronous = FULL")
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > _VERSION:
            raise StartRefused(f"{path} was written by a newer agent (version {version}, this one knows {_VERSION})")
        if version == 0:
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        for known in range(version or _VERSION, _VERSION):
            self._db.executescript(f"BEGIN IMMEDIATE; {_UPGRADES[known]} PRAGMA user_version = {known + 1}; COMMIT;")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                # On a full disk SQLite may have rolled back by itself, or may have refused the COMMIT and kept it open.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return list(self._db.execute(sql, values))

    def content_key(self) -> bytes:
        """The node's own random key for hashing contents, made on first use.

        Keyed, because contents hold secrets: a plain hash of a short secret could be guessed from the file.
        """
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('content_key', ?)", (secrets.token_bytes(32),))
            return bytes(db.execute("SELECT value FROM meta WHERE key = 'content_key'").fetchone()[0])

    # --- the node
    def remember(self, key: str, value: dict[str, Any]) -> None:
        """Keep a small fact of the node itself, instead of what was kept as ``key`` before."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (key, json.dumps(value).encode()),
            )

    def recall(self, key: str) -> dict[str, Any] | None:
        """What ``remember`` kept."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        return _decoded(rows[0]["value"]) if rows else None

    # --- workspaces
    def workspace(self, workspace_id: str) -> Workspace | None:
        """The workspace, deleted ones included; None if it was never created here."""
        rows = self._rows("SELECT * FROM workspaces WHERE id = ?", workspace_id)
        return _workspace(rows[0]) if rows else None

    def workspaces(self, *statuses: str) -> list[Workspace]:
        """All workspaces with one of the statuses, oldest first."""
        # Those that were deleted stay as rows for ever: they must not be read with every heartbeat.
        marks = ", ".join("?" * len(statuses))
        rows = self._rows(f"SELECT * FROM workspaces WHERE status IN ({marks}) ORDER BY rowid", *statuses)  # noqa: S608
        return [_workspace(row) for row in rows]

    def tombstone(self, workspace_id: str) -> int | None:
        """The fence a workspace was deleted with; None if it was not deleted."""
        rows = self._rows("SELECT fence FROM tombstones WHERE id = ?", workspace_id)
        return int(rows[0]["fence"]) if rows else None

    def add_workspace(
        self, workspace_id: str, digest: str, payload: dict[str, Any], run: dict[str, Any], slots: int
    ) -> bool:
        """Store a new workspace as ``creating``. False when ``slots`` live ones (creating or ready) exist already."""
        with self._transaction() as db:
            live = db.execute("SELECT count(*) FROM workspaces WHERE status IN ('creating', 'ready')").fetchone()[0]
            if live >= slots:
                return False
            db.execute(
                "INSERT INTO workspaces (id, digest, fence, callback_token, token_generation, payload, status, run)"
                " VALUES (?, ?, ?, ?, ?, ?, 'creating', ?)",
                (
                    workspace_id,
                    digest,
                    payload["fence"],
                    payload["callback_token"],
                    payload.get("callback_generation", 0),
                    json.dumps({key: value for key, value in payload.items() if key != "callback_token"}),
                    json.dumps(run),
                ),
            )
            return True

    def touch_workspace(self, workspace_id: str, fence: int) -> None:
        """Remember a higher fence."""
        with self._transaction() as db:
            db.execute("UPDATE workspaces SET fence = max(fence, ?) WHERE id = ?", (fence, workspace_id))

    def renew_token(self, workspace_id: str, token: str, generation: int, *, speak: bool = False) -> None:
        """Use this callback token from now on, unless it is of an earlier generation than the one there is.

        ``speak``: another token than the one there is ends a silence.
        """
        with self._transaction() as db:
            db.execute(
                "UPDATE workspaces SET callback_token = ?, token_generation = ?,"
                " silenced = CASE WHEN ? AND callback_token != ? THEN 0 ELSE silenced END"
                " WHERE id = ? AND token_generation <= ?",
                (token, generation, speak, token, workspace_id, generation),
            )

    def end_provisioning(
        self,
        workspace_id: str,
        *,
        clone: dict[str, Any] | None,
        error: dict[str, Any] | None,
        path: str,
        report: dict[str, Any],
    ) -> bool:
        """``creating`` becomes ``ready`` or ``failed``, its report is put in the outbox. False if deleted meanwhile."""
        with self._transaction() as db:
            changed = db.execute(
                "UPDATE workspaces SET status = ?, clone = ?, error = ?, payload = NULL"
                " WHERE id = ? AND status = 'creating'",
                (
                    "failed" if error else "ready",
                    json.dumps(clone) if clone else None,
                    json.dumps(error) if error else None,
                    workspace_id,
                ),
            ).rowcount
            if changed:
                _post(db, f"workspace_outcome:{workspace_id}", workspace_id, path, report)
            return bool(changed)

    def bury(self, workspace_id: str, fence: int) -> None:
        """Write the tombstone and mark the workspace deleted: from here on it can't be created again."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO tombstones VALUES (?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET fence = max(fence, excluded.fence)",
                (workspace_id, fence, time.time()),
            )
            db.execute(
                "UPDATE workspaces SET status = 'deleted', payload = NULL, fence = max(fence, ?) WHERE id = ?",
                (fence, workspace_id),
            )

    def forget_sessions(self, workspace_id: str) -> None:
        """Drop the sessions of a deleted workspace. What is in the outbox stays: a result is not thrown away."""
        with self._transaction() as db:
            db.execute(
                "DELETE FROM log_chunks WHERE session_id IN (SELECT id FROM sessions WHERE workspace_id = ?)",
                (workspace_id,),
            )
            db.execute("DELETE FROM sessions WHERE workspace_id = ?", (workspace_id,))

    def silence(self, workspace_id: str) -> None:
        """Send nothing more for this workspace: the control plane said that it is over."""
        with self._transaction() as db:
            db.execute("UPDATE workspaces SET silenced = 1 WHERE id = ?", (workspace_id,))
            db.execute("DELETE FROM outbox WHERE workspace_id = ?", (workspace_id,))

    # --- sessions
    def session(self, session_id: str) -> Session | None:
        """The session, or None."""
        rows = self._rows("SELECT * FROM sessions WHERE id = ?", session_id)
        return _session(rows[0]) if rows else None

    def sessions(self, workspace_id: str | None = None) -> list[Session]:
        """The sessions of a workspace, or all of them, oldest first."""
        if workspace_id is None:
            return [_session(row) for row in self._rows("SELECT * FROM sessions ORDER BY rowid")]
        return [
            _session(row)
            for row in self._rows("SELECT * FROM sessions WHERE workspace_id = ? ORDER BY rowid", workspace_id)
        ]

    def add_session(self, session_id: str, workspace_id: str, digest: str, plan: dict[str, Any]) -> None:
        """Store a session as ``starting``."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO sessions (id, workspace_id, digest, status, plan) VALUES (?, ?, ?, 'starting', ?)",
                (session_id, workspace_id, digest, json.dumps(plan)),
            )

    def drop_session(self, session_id: str) -> None:
        """Forget a session whose shim never started; nobody was told of it."""
        with self._transaction() as db:
            db.execute("DELETE FROM sessions WHERE id = ? AND status = 'starting'", (session_id,))

    def session_started(self, session_id: str) -> None:
        """``starting`` becomes ``running``."""
        with self._transaction() as db:
            db.execute("UPDATE sessions SET status = 'running' WHERE id = ? AND status = 'starting'", (session_id,))

    def session_finishing(self, session_id: str, exit_report: dict[str, Any]) -> None:
        """``running`` becomes ``finishing``: the command ended, its changes are being committed."""
        with self._transaction() as db:
            db.execute(
                "UPDATE sessions SET status = 'finishing', exit = ? WHERE id = ? AND status = 'running'",
                (json.dumps(exit_report), session_id),
            )

    def session_ended(self, session_id: str, outcome: dict[str, Any], output_size: int, chunk_max: int) -> None:
        """Store the outcome and cut the rest of the output into chunks, whose number becomes ``log_chunks``."""
        with self._transaction() as db:
            while _cut(db, session_id, output_size, chunk_max):
                pass
            count = db.execute("SELECT count(*) FROM log_chunks WHERE session_id = ?", (session_id,)).fetchone()[0]
            db.execute(
                "UPDATE sessions SET status = 'ended', outcome = ? WHERE id = ? AND status != 'ended'",
                (json.dumps({**outcome, "log_chunks": count}), session_id),
            )

    def report_session(self, session: Session, path: str) -> None:
        """Put an ended session's outcome into the outbox, once."""
        with self._transaction() as db:
            changed = db.execute(
                "UPDATE sessions SET reported = 1 WHERE id = ? AND status = 'ended' AND reported = 0", (session.id,)
            ).rowcount
            row = db.execute(
                "SELECT outcome, logs_dropped, silenced FROM sessions JOIN workspaces ON workspaces.id = workspace_id"
                " WHERE sessions.id = ?",
                (session.id,),
            ).fetchone()
            if changed and row is not None and not row["silenced"]:
                delivery_id = f"session_outcome:{session.id}"
                outcome = json.loads(row["outcome"])
                outcome["log_truncated"] = outcome["log_truncated"] or bool(row["logs_dropped"])
                _post(db, delivery_id, session.workspace_id, path, outcome)

    # --- log chunks
    def cut_chunk(self, session_id: str, output_size: int, chunk_max: int) -> None:
        """Fix the borders of the next chunk, if there is new output. From now on its number means these bytes."""
        with self._transaction() as db:
            _cut(db, session_id, output_size, chunk_max)

    def next_chunk(self, session_id: str) -> Chunk | None:
        """The first chunk that is not acknowledged."""
        rows = self._rows(
            "SELECT number, start, length FROM log_chunks"
            " WHERE session_id = ? AND acknowledged = 0 ORDER BY number LIMIT 1",
            session_id,
        )
        return Chunk(**dict(rows[0])) if rows else None

    def chunks_wanted_from(self, session_id: str, number: int) -> None:
        """The control plane has all chunks below ``number`` and wants that one next."""
        with self._transaction() as db:
            db.execute(
                "UPDATE log_chunks SET acknowledged = (number < ?)"
                " WHERE session_id = ? AND acknowledged != (number < ?)",
                (number, session_id, number),
            )

    def drop_logs(self, session_id: str) -> None:
        """Send no more log chunks of this session: the control plane refused them for good."""
        with self._transaction() as db:
            db.execute("UPDATE sessions SET logs_dropped = 1 WHERE id = ?", (session_id,))

    # --- outbox
    def due_deliveries(self, now: float, horizon_s: float) -> list[Delivery]:
        """The oldest message of each workspace, where its time has come.

        A time further away than ``horizon_s`` was set before the clock was turned back: it counts as come.
        """
        rows = self._rows("SELECT * FROM outbox WHERE seq IN (SELECT min(seq) FROM outbox GROUP BY workspace_id)")
        found = [Delivery(**dict(row)) for row in rows]
        return [delivery for delivery in found if not now < delivery.next_at <= now + horizon_s]

    def postpone(self, seq: int, next_at: float) -> None:
        """The attempt got no answer that counts: try again at ``next_at``."""
        with self._transaction() as db:
            db.execute("UPDATE outbox SET attempts = attempts + 1, next_at = ? WHERE seq = ?", (next_at, seq))

    def replace_delivery(self, seq: int, payload: str) -> None:
        """Send ``payload`` instead, at once: the message as it was is refused for good."""
        with self._transaction() as db:
            db.execute("UPDATE outbox SET payload = ?, attempts = 0, next_at = 0 WHERE seq = ?", (payload, seq))

    def delivered(self, seq: int) -> None:
        """The message was answered for good."""
        with self._transaction() as db:
            db.execute("DELETE FROM outbox WHERE seq = ?", (seq,))


def _post(db: sqlite3.Connection, delivery_id: str, workspace_id: str, path: str, report: dict[str, Any]) -> None:
    db.execute(
        "INSERT OR IGNORE INTO outbox (delivery_id, workspace_id, path, payload) VALUES (?, ?, ?, ?)",
        (delivery_id, workspace_id, path, json.dumps(report)),
    )


def _cut(db: sqlite3.Connection, session_id: str, output_size: int, chunk_max: int) -> bool:
    number, end = db.execute(
        "SELECT coalesce(max(number), 0), coalesce(max(start + length), 0) FROM log_chunks WHERE session_id = ?",
        (session_id,),
    ).fetchone()
    length = min(chunk_max, output_size - end)
    if length <= 0:
        return False
    db.execute(
        "INSERT INTO log_chunks (session_id, number, start, length) VALUES (?, ?, ?, ?)",
        (session_id, number + 1, end, length),
    )
    return True
