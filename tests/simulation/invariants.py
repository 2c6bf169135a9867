"""What holds after every event, and what must be true when everything has settled."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taskflow.db.status import TERMINAL, TRANSITIONS
from tests.simulation.outside import Post, SimulatedAgent
from tests.support.fake_provider import FakeProvider

#: Results of a run that, once written, are written for good (``node_id`` changes when another node is chosen).
_CONSTANT = ("workspace_id", "session_id", "base_commit", "time_limit_s")


class Broken(BaseException):
    """An invariant does not hold. No ``Exception``: the code it is found in must not be able to handle it."""


@dataclass
class _Seen:
    rev: int
    results: dict[str, Any]
    finished: bool


def hold(condition: bool, what: str) -> None:
    """Raise ``Broken`` unless ``condition``."""
    if not condition:
        raise Broken(what)


class Ledger:
    """Follows the rows after each commit. Reads on the driver's own connection: quick, and seen by no fault."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection
        self._runs: dict[str, _Seen] = {}
        self._status: dict[str, str | None] = {}
        self._entered: Counter[tuple[str, str]] = Counter()
        self._events = 0

    def after_commit(self) -> None:
        """Called after every commit."""
        self._follow_runs()
        self._follow_events()
        self._count_slots()

    def _follow_runs(self) -> None:
        for run_id, rev, results, finished_at in self._sql.execute("SELECT id, rev, results, finished_at FROM runs"):
            found = json.loads(results)
            seen = self._runs.get(run_id)
            if seen is not None and seen.rev != rev:
                hold(rev == seen.rev + 1, f"rev of {run_id} went from {seen.rev} to {rev}")
                hold(not seen.finished, f"{run_id} was written after its end")
            elif seen is not None:
                hold(found == seen.results, f"results of {run_id} changed without a new rev")
            if seen is not None:
                hold(set(seen.results) <= set(found), f"results of {run_id} were lost")
                for name in _CONSTANT:
                    hold(
                        name not in seen.results or found[name] == seen.results[name],
                        f"result {name} of {run_id} changed from {seen.results.get(name)} to {found.get(name)}",
                    )
            self._runs[run_id] = _Seen(rev, found, finished_at is not None)

    def _follow_events(self) -> None:
        rows = self._sql.execute(
            "SELECT id, subject_id, run_id, kind, data FROM events WHERE id > ? ORDER BY id", (self._events,)
        )
        for event_id, subject_id, run_id, kind, data in rows.fetchall():
            self._events = event_id
            said = json.loads(data)
            if kind == "run_finished":
                self._once(run_id, "run_finished")
            if kind != "status_changed" or "from" not in said:
                continue
            before, to = said["from"], said["to"]
            known = self._status.get(subject_id)
            hold(before == known, f"{subject_id} became {to} from {before}, but it was {known}")
            hold(before is None or to in TRANSITIONS[before], f"{subject_id}: {before} to {to} is not legal")
            self._status[subject_id] = to
            if to in TERMINAL:
                self._once(run_id or subject_id, "terminal")
            elif to == "in_progress":
                self._once(run_id, to)
        for task_id, status in self._sql.execute("SELECT id, status FROM tasks"):
            hold(self._status.get(task_id) == status, f"{task_id} is {status} without an event that says so")

    def _once(self, run_id: str, what: str) -> None:
        self._entered[run_id, what] += 1
        hold(self._entered[run_id, what] == 1, f"{run_id}: {what} twice")

    def _count_slots(self) -> None:
        rows = self._sql.execute(
            "SELECT n.id, n.slots, count(*) FROM nodes n JOIN workspaces w ON w.node_id = n.id "
            "WHERE w.released_at IS NULL GROUP BY n.id, n.slots"
        )
        for node_id, slots, taken in rows:
            hold(taken <= slots, f"{taken} workspaces on the {slots} slots of {node_id}")

    # --- at the end

    def settled(self, post: Post, dead: set[str]) -> None:
        """Every run is over, ended for the reason it should have, and left no row that waits for somebody."""
        for table, where in (
            ("runs", "finished_at IS NULL"), ("workspaces", "released_at IS NULL"), ("outbox", "done_at IS NULL"),
            ("nodes", "destroyed_at IS NULL"), ("agent_sessions", "ended_at IS NULL"),
        ):  # fmt: skip
            left = self._sql.execute(f"SELECT id FROM {table} WHERE {where}").fetchall()
            hold(not left, f"left behind in {table}: {left}")
        hold(not post.contradictions, f"a contradiction was accepted: {post.contradictions}")
        signals = {
            subject: json.loads(payload)
            for subject, payload in self._sql.execute("SELECT subject, payload FROM signals WHERE subject <> ''")
        }
        for subject, payload in post.accepted.items():
            hold(subject in signals, f"what {subject} reported was accepted and is not recorded")
            hold(
                signals[subject] == json.loads(json.dumps(payload)), f"{subject}: another answer than the accepted one"
            )
        rows = self._sql.execute(
            "SELECT t.id, t.status, t.error, t.node_id, r.id, r.cancel_requested_at, r.results, "
            "t.node_loss_reruns, t.node_loss_reruns_max "
            "FROM tasks t JOIN runs r ON r.id = t.run_id"
        )
        for task_id, status, error, node_id, run_id, cancel_at, results, done, most in rows.fetchall():
            if status == "cancelled":
                hold(cancel_at is not None, f"{task_id} was cancelled by nobody")
                continue
            ending = run_id.removeprefix("run-")
            reports = post.accepted.get(f"ws-{ending}"), post.accepted.get(f"session-{ending}")
            code = (json.loads(error or "null") or {}).get("code")
            lost = node_id in dead or json.loads(results).get("node_id") in dead
            hold(code != "node_lost" or done >= most or cancel_at is not None, f"{task_id} was not run again")
            wrong = _wrong_end(status, code, *reports, lost=lost)
            hold(not wrong, f"{task_id} is {status} ({code}): {wrong}; reported: {reports}")
        self._run_again_once()

    def _run_again_once(self) -> None:
        """Each lost run was promised one further run at most, and each further run was promised."""
        promised = self._sql.execute("SELECT payload FROM outbox WHERE kind = 'rerun_task'").fetchall()
        by_run = Counter(json.loads(payload)["run_id"] for (payload,) in promised)
        hold(all(count == 1 for count in by_run.values()), f"promised twice: {by_run}")
        by_task = Counter(json.loads(payload)["task_id"] for (payload,) in promised)
        rows = self._sql.execute(
            "SELECT subject_id, data FROM events WHERE actor = 'runner' AND kind = 'status_changed'"
        )
        again = Counter(task_id for task_id, data in rows if json.loads(data)["to"] == "ready")
        hold(all(count <= by_task[task_id] for task_id, count in again.items()), f"run again unasked: {again}")


def _wrong_end(
    status: str, code: str | None, workspace: Mapping[str, Any] | None, session: Mapping[str, Any] | None, *, lost: bool
) -> str:
    """Why a task should not have ended so, given what was reported and accepted in time; '' when it is right."""
    if session is not None:
        right = "completed" if session["exit_code"] == 0 else "command_failed"
        right = "node_lost" if session["outcome"] == "lost" else right
        return "" if (code or status) == right else f"its session's outcome was accepted; it should be {right}"
    if workspace is not None and workspace["status"] == "failed":
        return "" if code == "workspace_failed" else "its workspace failed"
    if code in ("node_lost", "node_failed"):
        return "" if lost else "its node was well"
    if code == "step_timeout" and workspace is not None:
        return "its workspace was ready in time"
    # Nobody reported in time; the node may have been asked.
    known = ("completed", "command_failed", "workspace_failed", "step_timeout", "session_lost")
    return "" if (code or status) in known else "nothing explains it"


def effects_once(provider: FakeProvider) -> None:
    """Nothing was bought, created or started twice, and nothing was created after it was deleted."""
    once("servers bought", provider.bought)
    for agent in provider.agents.values():
        assert isinstance(agent, SimulatedAgent)
        once("workspaces made", agent.created)
        once("sessions started", agent.started)
        if agent.created_after_delete:
            raise Broken(f"made after they were deleted: {agent.created_after_delete}")


def one_place_at_a_time(provider: FakeProvider) -> None:
    """However cut off a machine is, a command runs in one place: a further run never meets the one before."""
    places: Counter[str] = Counter()
    for agent in provider.agents.values():
        assert isinstance(agent, SimulatedAgent)
        places.update(agent.running())
    once("commands running in two places", places)


def once(what: str, counted: Counter[str]) -> None:
    """Each effect happened at most once."""
    if any(number > 1 for number in counted.values()):
        raise Broken(f"{what} twice: {dict(counted)}")


def nothing_outside(provider: FakeProvider) -> None:
    """No server and no workspace is left."""
    hold(not provider.inventory(), f"servers left: {provider.inventory()}")
    for agent in provider.agents.values():
        if not agent.alive:
            continue  # what was on it went with it
        hold(not agent.workspaces, f"workspaces left on {agent.order.label}: {list(agent.workspaces)}")
