"""Sessions: started once, followed to their end, finished (commit, push), reported after their output."""

from __future__ import annotations

import dataclasses
import errno
import hmac
import json
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from taskflow import protocol
from taskflow.agent import problems, shim
from taskflow.agent.containers import client_env
from taskflow.agent.finish import FinishOrder
from taskflow.agent.isolation import Isolation
from taskflow.agent.jobs import Jobs
from taskflow.agent.launching import (
    git_env,
    helper_argv,
    helper_env,
    session_env,
    task_env,
    tree_git_env,
    workspace_env,
)
from taskflow.agent.outbox import Outbox
from taskflow.agent.places import Places, private_directory, read_json
from taskflow.agent.processes import kill_processes, kill_tree, processes_with_env, start_ticks
from taskflow.agent.shipping import Shipper, output_size
from taskflow.agent.store import Session, Store, Workspace
from taskflow.agent.wire import Wire

log = logging.getLogger(__name__)

_POLL_S = 0.1
_START_LIMIT_S = 10.0
_FINISH_LIMIT_S = 600.0
#: How long the work of a command waits for room on a full disk before its commit counts as failed; how often it tries.
_ROOM_LIMIT_S = 600.0
_ROOM_POLL_S = 2.0
_NO_ROOM = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT))
_DELETE_GRACE_S = 1.0
_DELETE_LIMIT_S = 8.0
_LOST: dict[str, Any] = {
    "outcome": "lost",
    "exit_code": None,
    "duration_s": None,
    "log_truncated": False,
    "error": None,
}


def _hand_over(process: subprocess.Popen[bytes], order: bytes) -> bytes:
    """Give a new shim its order and return its first words; empty when it ended or said nothing in time."""
    assert process.stdin is not None
    assert process.stdout is not None
    watchdog = threading.Timer(_START_LIMIT_S, process.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        with process.stdin, process.stdout:
            process.stdin.write(order)
            process.stdin.close()
            return process.stdout.readline().strip()
    except BrokenPipeError:
        return b""
    finally:
        watchdog.cancel()


def lacks_room(answer: dict[str, Any]) -> bool:
    """Whether a finishing job failed because the disk is full: by git's own words, which end with the system's."""
    error = (answer.get("result") or answer).get("error") or {}
    return any(words in error.get("message", "") for words in _NO_ROOM)


class Sessions:
    """The sessions of this node."""

    def __init__(
        self,
        store: Store,
        places: Places,
        outbox: Outbox,
        jobs: Jobs,
        wires: Callable[[], Wire],
        lifeline: str | None,
        isolation: Isolation,
    ) -> None:
        self._store = store
        self._places = places
        self._outbox = outbox
        self._jobs = jobs
        self._wires = wires
        self._lifeline = lifeline
        self._isolation = isolation
        self._lock = threading.Lock()
        self._followers: dict[str, threading.Thread] = {}
        self._shippers: dict[str, Shipper] = {}
        self._discarded: set[str] = set()
        self._shims: dict[str, subprocess.Popen[bytes]] = {}

    def resume(self) -> None:
        """After a start: follow what runs, finish what ended, send what was not sent."""
        for session in self._store.sessions():
            if self._store.tombstone(session.workspace_id) is not None:
                continue  # its workspace is being deleted, it with it
            directory = self._places.session(session.workspace_id, session.id)
            if session.status == "starting" and not (directory / "shim.json").exists():
                # Its creator got no answer and will ask again.
                self._store.drop_session(session.id)
                continue
            self._store.session_started(session.id)
            if not session.reported:
                self._follow(session)

    def start(self, workspace: Workspace, session_id: str, payload: dict[str, Any], content: str) -> dict[str, Any]:
        """Start a session, or answer for the one that was started. The caller holds the workspace's lock.

        Raises ``Problem``: conflict, not_ready, busy.
        """
        known = self._store.session(session_id)
        if known is not None:
            if known.workspace_id != workspace.id or not hmac.compare_digest(known.digest, content):
                raise problems.conflict("session", session_id)
            if known.status != "starting":
                return self.state(workspace.id, session_id)
        if workspace.status != "ready":
            raise problems.Problem(409, "not_ready", f"workspace {workspace.id} is {workspace.status}, not ready")
        if any(other.status != "ended" and other.id != session_id for other in self._store.sessions(workspace.id)):
            raise problems.Problem(409, "busy", f"workspace {workspace.id} has a session that has not ended")
        if known is None:
            plan = {"commit_message": payload["commit_message"], "push": payload["push"]}
            self._store.add_session(session_id, workspace.id, content, plan)
        try:
            self._launch(workspace, session_id, payload)
        except (OSError, subprocess.SubprocessError) as error:
            if not (self._places.session(workspace.id, session_id) / "shim.json").exists():
                self._store.drop_session(session_id)
                raise problems.Problem(500, "shim_failed", f"the session's shim did not start: {error}") from error
        self._store.session_started(session_id)
        session = self._store.session(session_id)
        assert session is not None
        self._follow(session)
        return self.state(workspace.id, session_id)

    def state(self, workspace_id: str, session_id: str) -> dict[str, Any]:
        """As ``SessionStateSchema``. Raises ``Problem`` for an unknown id."""
        session = self._store.session(session_id)
        if session is None or session.workspace_id != workspace_id:
            raise problems.unknown("session", session_id)
        status = "running" if session.status == "starting" else session.status
        return {"session_id": session_id, "status": status, "outcome": session.outcome}

    def stop(self, workspace_id: str, session_id: str) -> dict[str, Any]:
        """Ask a running session to end as ``stopped``; one that ended by itself keeps its outcome."""
        state = self.state(workspace_id, session_id)
        if state["status"] == "running":
            shim.request_stop(self._places.session(workspace_id, session_id))
        return state

    def stop_all(self, limit_s: float) -> None:
        """End every running session; returns when they are gone or after ``limit_s`` seconds."""
        running = [session for session in self._store.sessions() if session.status == "running"]
        directories = [self._places.session(session.workspace_id, session.id) for session in running]
        for directory in directories:
            shim.request_stop(directory)
        end = time.monotonic() + limit_s
        while time.monotonic() < end and not all(shim.lock_is_free(directory) for directory in directories):
            time.sleep(_POLL_S)

    def cut_off(self, error: dict[str, Any]) -> bool:
        """End what runs as ``lost`` with this error; it is reported once somebody is reached. Whether all have ended."""
        sessions = [session for session in self._store.sessions() if session.status != "ended"]
        for session in sessions:
            directory = self._places.session(session.workspace_id, session.id)
            if session.status == "running" and not (directory / "stop").exists():
                shim.request_stop(directory, lost=error)
        return not sessions

    def progress(self) -> list[dict[str, Any]]:
        """The sessions that have not ended, as ``SessionProgressSchema``."""
        found = []
        for session in self._store.sessions():
            if session.status == "ended":
                continue
            output = self._places.session(session.workspace_id, session.id) / "output.log"
            try:
                stat = output.stat()
            except FileNotFoundError:
                stat = None
            found.append(
                {
                    "session_id": session.id,
                    "workspace_id": session.workspace_id,
                    "status": "running" if session.status == "starting" else session.status,
                    "output_bytes": stat.st_size if stat else 0,
                    "output_age_s": max(0.0, round(time.time() - stat.st_mtime, 1)) if stat else None,
                }
            )
        return found

    def discard(self, workspace_id: str) -> None:
        """End the sessions of a workspace that is being deleted; their outcome is not reported any more."""
        sessions = self._store.sessions(workspace_id)
        with self._lock:
            self._discarded |= {session.id for session in sessions}
        for session in sessions:
            self._end_shim(session)
            with self._lock:
                shipper = self._shippers.pop(session.id, None)
                follower = self._followers.pop(session.id, None)
            if shipper is not None:
                shipper.close()
            if follower is not None:
                follower.join(_DELETE_GRACE_S)  # it may hang in a request; it writes nothing any more
            self._collect(session.id)

    def _collect(self, session_id: str) -> None:
        """Take note of the end of a shim that has let go of its lock: until then the kernel keeps an entry for it."""
        process = self._shims.pop(session_id, None)
        if process is not None:
            try:
                process.wait(_START_LIMIT_S)
            except subprocess.TimeoutExpired:
                log.warning("the shim of session %s, process %s, does not end", session_id, process.pid)

    def _end_shim(self, session: Session) -> None:
        directory = self._places.session(session.workspace_id, session.id)
        if not directory.exists() or shim.lock_is_free(directory):
            return
        shim.request_stop(directory, _DELETE_GRACE_S)
        end = time.monotonic() + _DELETE_LIMIT_S
        while time.monotonic() < end:
            if shim.lock_is_free(directory):
                return
            time.sleep(0.05)
        log.error("the shim of session %s did not end; killing it and all it started", session.id)
        begun = read_json(directory / "shim.json") or {}
        if begun and start_ticks(begun["pid"]) == begun["start_ticks"]:
            kill_tree(begun["pid"], grace_s=0.0)

    # --- start
    def _launch(self, workspace: Workspace, session_id: str, payload: dict[str, Any]) -> None:
        directory = self._places.session(workspace.id, session_id)
        private_directory(directory.parent)
        private_directory(directory)
        marks = {**task_env(workspace.run, workspace.id), "TASKFLOW_SESSION_ID": session_id}
        confinement = self._isolation.of(workspace.id)
        host = workspace_env(os.environ, confinement)
        order = shim.Order(
            command=payload["command"],
            cwd=str(self._places.repo(workspace.id)),
            env={**host, **marks, **payload["env"], **payload["secrets"]},
            secrets=list(payload["secrets"].values()),
            time_limit_s=payload["time_limit_s"],
            log_limit_bytes=payload["log_limit_bytes"],
            lifeline=self._lifeline,
            confinement=confinement,
        )
        process = subprocess.Popen(
            helper_argv("shim", str(directory)),
            env=helper_env({**session_env(os.environ), **client_env(os.environ), **marks}),
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._shims[session_id] = process
        said = _hand_over(process, json.dumps(dataclasses.asdict(order)).encode())
        if said not in (b"ok", b"taken"):
            raise subprocess.SubprocessError(f"it said {said[:100]!r}")
        log.info("session %s started: %s", session_id, payload["command"][0])

    # --- follow
    def _follow(self, session: Session) -> None:
        output = self._places.session(session.workspace_id, session.id) / "output.log"
        shipper = Shipper(self._store, self._wires(), session, output)
        thread = threading.Thread(target=self._run, args=(session.id, shipper), name="follow", daemon=True)
        with self._lock:
            if session.id in self._followers:
                return
            self._followers[session.id], self._shippers[session.id] = thread, shipper
        thread.start()

    def _run(self, session_id: str, shipper: Shipper) -> None:
        sending = threading.Thread(target=shipper.run, name="ship", daemon=True)
        sending.start()
        while not self._is_discarded(session_id):
            try:
                session = self._store.session(session_id)
                if session is None or session.status == "ended":
                    break
                if session.status == "running":
                    self._look(session)
                else:
                    self._finish(session)
            except Exception:
                log.exception("following session %s", session_id)
                time.sleep(1.0)
        sending.join()
        self._report(session_id)

    def _report(self, session_id: str) -> None:
        while not self._is_discarded(session_id):
            try:
                session = self._store.session(session_id)
                if session is not None:
                    self._store.report_session(session, self._outcome_path(session))
                    self._outbox.ring()
                return
            except Exception:  # a full disk: nobody else would report it before the agent's next start
                log.exception("reporting session %s", session_id)
                time.sleep(1.0)

    @staticmethod
    def _outcome_path(session: Session) -> str:
        return protocol.route(
            protocol.CALLBACK_SESSION_OUTCOME, workspace_id=session.workspace_id, session_id=session.id
        )

    def _is_discarded(self, session_id: str) -> bool:
        with self._lock:
            return session_id in self._discarded

    def _look(self, session: Session) -> None:
        """``running``: has the shim reported, or gone without a report?"""
        directory = self._places.session(session.workspace_id, session.id)
        gone = shim.lock_is_free(directory)  # before the file is read: a shim writes it and only then lets go
        report = read_json(directory / "exit.json")
        if not gone:
            time.sleep(_POLL_S)
            return
        self._collect(session.id)
        if report is None:
            log.warning("session %s: its shim is gone and left no report", session.id)
            kill_processes(processes_with_env("TASKFLOW_SESSION_ID", session.id), grace_s=0.0)
            self._isolation.end(session.workspace_id)
            report = _LOST
        self._store.session_finishing(session.id, report)

    def _finish(self, session: Session) -> None:
        """``finishing``: commit and push, then store the outcome. Repeated as a whole after a restart."""
        report = session.exit or _LOST
        outcome: dict[str, Any] = {
            "outcome": report["outcome"],
            "exit_code": report["exit_code"],
            "commit": None,
            "output_branch": None,
            "changed_files": [],
            "pushed": False,
            "log_truncated": report["log_truncated"],
            "duration_s": report["duration_s"],
            "error": report["error"],
        }
        if report["outcome"] in ("exited", "timed_out"):
            answer = self._commit_when_there_is_room(session)
            if answer is None:
                return  # cancelled: the workspace is being deleted
            found = answer.get("result") or {"error": answer["error"]}
            outcome.update({key: value for key, value in found.items() if key != "error"})
            outcome["error"] = report["error"] or found["error"]
        directory = self._places.session(session.workspace_id, session.id)
        self._store.session_ended(
            session.id, outcome, output_size(directory / "output.log"), protocol.LOG_CHUNK_BYTES_MAX
        )
        log.info("session %s ended: %s", session.id, outcome["outcome"])

    def _commit_when_there_is_room(self, session: Session) -> dict[str, Any] | None:
        """The answer of the finishing job; on a full disk again and again, because the work is lost with its end."""
        end = time.monotonic() + _ROOM_LIMIT_S
        while True:
            answer = self._commit(session)
            if answer is None or time.monotonic() > end or not lacks_room(answer):
                return answer
            log.warning("no room to commit the work of session %s; trying again", session.id)
            time.sleep(_ROOM_POLL_S)
            if self._is_discarded(session.id):
                return None

    def _commit(self, session: Session) -> dict[str, Any] | None:
        workspace = self._store.workspace(session.workspace_id)
        assert workspace is not None
        assert workspace.clone is not None
        marks = task_env(workspace.run, workspace.id)
        confinement = self._isolation.of(workspace.id)
        # What a job that was killed with an earlier agent may have left.
        self._isolation.end(workspace.id)
        order = FinishOrder(
            repo=str(self._places.repo(workspace.id)),
            clone=workspace.clone,
            output_branch=str(workspace.run["output_branch"]),
            commit_message=session.plan["commit_message"],
            push=session.plan["push"],
            git_env={**git_env(os.environ), **marks},
            timeout_s=_FINISH_LIMIT_S,
            clean=str(self._places.clean(workspace.id)) if confinement.uid is not None else None,
            tree_env={**tree_git_env(os.environ, confinement), **marks},
            confinement=confinement,
        )
        return self._jobs.run(workspace.id, order, marks, 2 * _FINISH_LIMIT_S)
