"""What must be true of an installation whose tasks are over, read from the outside: SQL, Redis, disk and processes.

Each function answers a list of sentences, one for each thing that is wrong; an empty list means that it holds. They ask
the stores and the kernel, never the code that wrote them, so they serve any test that has hurt a real stack.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import redis
from sqlalchemy import Engine, select

from taskflow.agent.processes import processes_with_env
from taskflow.db.models import AgentSession, Event, Node, OutboxRow, Run, Task, Workspace
from taskflow.db.status import TERMINAL, TRANSITIONS

# --- SQL


def status_histories(engine: Engine) -> list[str]:
    """Each task walked along legal transitions, its row agrees with its last event, each run ended at most once."""
    wrong: list[str] = []
    known: dict[str, str | None] = {}
    terminal: defaultdict[str, int] = defaultdict(int)
    finished: defaultdict[str, int] = defaultdict(int)
    with engine.connect() as sql:
        events = sql.execute(select(Event.__table__).order_by(Event.subject_id, Event.seq)).all()
        statuses = {row.id: row.status for row in sql.execute(select(Task.id, Task.status))}
    for event in events:
        if event.kind == "run_finished":
            finished[event.run_id] += 1
        if event.kind != "status_changed" or event.subject_kind != "task":
            continue
        before, to = known.get(event.subject_id), event.data["to"]
        if event.data.get("from") != before:
            wrong.append(f"{event.subject_id} became {to} from {event.data.get('from')}, but it was {before}")
        if before is not None and to not in TRANSITIONS[before]:
            wrong.append(f"{event.subject_id}: {before} to {to} is not legal")
        known[event.subject_id] = to
        terminal[event.run_id or event.subject_id] += to in TERMINAL
    wrong += [f"{run}: {count} terminal transitions" for run, count in terminal.items() if count > 1]
    wrong += [f"{run}: finished {count} times" for run, count in finished.items() if count > 1]
    return wrong + [
        f"{task} is {status}, its events say {known.get(task)}"
        for task, status in statuses.items()
        if known.get(task) != status
    ]


def event_numbers(engine: Engine) -> list[str]:
    """The events of each subject are numbered from 1 without a gap."""
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    with engine.connect() as sql:
        for row in sql.execute(select(Event.subject_id, Event.seq).order_by(Event.subject_id, Event.seq)):
            numbers[row.subject_id].append(row.seq)
    return [
        f"events of {subject} are numbered {found}"
        for subject, found in numbers.items()
        if found != list(range(1, len(found) + 1))
    ]


def open_rows(engine: Engine, *, nodes_too: bool = True) -> list[str]:
    """No open task, run, workspace, session or promise. ``nodes_too``: and no node, with its run."""
    questions = [
        ("task", select(Task.id).where(Task.status.not_in(TERMINAL | {"draft"}))),
        ("task run", select(Run.id).where(Run.finished_at.is_(None), Run.subject_kind == "task")),
        ("workspace", select(Workspace.id).where(Workspace.released_at.is_(None))),
        ("session", select(AgentSession.id).where(AgentSession.ended_at.is_(None))),
        ("promise", select(OutboxRow.id).where(OutboxRow.done_at.is_(None))),
    ]
    if nodes_too:
        questions.append(("node", select(Node.id).where(Node.destroyed_at.is_(None))))
        questions.append(("node run", select(Run.id).where(Run.finished_at.is_(None), Run.subject_kind == "node")))
    with engine.connect() as sql:
        return [f"open {what}: {row[0]}" for what, question in questions for row in sql.execute(question)]


class RevWatch:
    """Looks at the runs again and again: ``rev`` only grows, and a finished run is written no more."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seen: dict[str, tuple[int, bool]] = {}
        self.wrong: list[str] = []

    def look(self) -> None:
        """Compare with the look before; what is wrong is kept in ``wrong``."""
        with self._engine.connect() as sql:
            rows = sql.execute(select(Run.id, Run.rev, Run.finished_at)).all()
        for row in rows:
            rev, over = self._seen.get(row.id, (-1, False))
            if row.rev < rev or (over and row.rev != rev):
                self.wrong.append(f"rev of {row.id} went from {rev} to {row.rev}{' after its end' if over else ''}")
            self._seen[row.id] = (row.rev, row.finished_at is not None)


# --- Redis


def control_state_left(client: redis.Redis, engine: Engine, prefix: str = "taskflow") -> list[str]:
    """No hash, lease or alarm of a run that SQL has finished or does not know."""
    with engine.connect() as sql:
        alive = {row.id for row in sql.execute(select(Run.id).where(Run.finished_at.is_(None)))}
    left: list[str] = []
    for raw in client.scan_iter(match=f"{prefix}:{{*", count=1000):
        key = raw.decode() if isinstance(raw, bytes) else str(raw)
        kind, _, run_id = key.split("}:", 1)[-1].partition(":")
        if kind in ("run", "lease") and run_id not in alive:
            left.append(f"key {key}")
        elif kind == "alarms":
            members = [item.decode() if isinstance(item, bytes) else str(item) for item in client.zrange(raw, 0, -1)]
            left += [f"alarm of {member} in {key}" for member in members if member not in alive]
    return left


# --- disk and processes


def servers_bought(engine: Engine, data_dir: Path) -> list[str]:
    """Each folder of the local provider belongs to one node row: nothing was ordered that nobody asked for."""
    with engine.connect() as sql:
        labels = [row.label for row in sql.execute(select(Node.label))]
    folders = sorted(folder.name for folder in (data_dir / "nodes").iterdir())
    return [f"folder of an unknown node: {name}" for name in folders if name not in labels]


def workspaces_left(data_dir: Path) -> list[str]:
    """No folder of a workspace on any local node."""
    return [f"folder {found}" for found in sorted((data_dir / "nodes").glob("*/workspaces/*"))]


def processes_left(data_dir: Path, *, agents_too: bool = True) -> list[str]:
    """No session below ``data_dir``. ``agents_too``: and no node agent, when every node is destroyed."""
    found: list[str] = []
    for pid in processes_with_env("TASKFLOW_DATA_DIR", str(data_dir)):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it ended while we looked
        agent, shim = "taskflow.agent " in command, "taskflow.agent.shim" in command
        if pid != os.getpid() and (shim or (agent and agents_too)):
            found.append(f"process {pid}: {command[:200]}")
    return found
