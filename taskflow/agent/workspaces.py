"""Workspaces: created once, prepared in the background, deleted for good."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from taskflow import protocol
from taskflow.agent import problems
from taskflow.agent.isolation import Isolation
from taskflow.agent.jobs import Jobs
from taskflow.agent.launching import git_env, task_env, tree_git_env, workspace_env
from taskflow.agent.outbox import Outbox
from taskflow.agent.places import Places, remove_tree
from taskflow.agent.processes import kill_processes, processes_with_env
from taskflow.agent.provision import ProvisionOrder
from taskflow.agent.sessions import Sessions
from taskflow.agent.store import Store, Workspace

log = logging.getLogger(__name__)

#: Not part of the content that a repeated create is compared by.
_NOT_CONTENT = ("fence", "callback_token", "callback_generation", "private_hosts", "limits")


class Locks:
    """One lock for each workspace: creating, starting and deleting in it happen one after the other."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)

    @contextmanager
    def of(self, workspace_id: str) -> Iterator[None]:
        """Hold the lock of a workspace."""
        with self._guard:
            lock = self._locks[workspace_id]
        with lock:
            yield


def digest(key: bytes, payload: dict[str, Any]) -> str:
    """The keyed hash by which a repeated create is compared with the first."""
    content = {name: value for name, value in payload.items() if name not in _NOT_CONTENT}
    return hmac.new(key, json.dumps(content, sort_keys=True).encode(), hashlib.sha256).hexdigest()


class Workspaces:
    """The workspaces of this node."""

    def __init__(
        self,
        store: Store,
        places: Places,
        outbox: Outbox,
        jobs: Jobs,
        sessions: Sessions,
        locks: Locks,
        slots: int,
        isolation: Isolation,
    ) -> None:
        self._store = store
        self._places = places
        self._outbox = outbox
        self._jobs = jobs
        self._sessions = sessions
        self._locks = locks
        self._slots = slots
        self._isolation = isolation
        self._key = store.content_key()
        self._threads: dict[str, threading.Thread] = {}

    def resume(self) -> None:
        """After a start: prepare again what was being prepared, delete what was being deleted."""
        for workspace in self._store.workspaces("creating"):
            self._prepare(workspace)
        for workspace in self._store.workspaces("deleted"):
            if self._places.workspace(workspace.id).exists() or self._store.sessions(workspace.id):
                threading.Thread(target=self._remove, args=(workspace.id,), name="remove", daemon=True).start()

    def create(self, workspace_id: str, payload: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """The workspace's state and the HTTP status. Raises ``Problem``: deleted, fenced, conflict, capacity."""
        with self._locks.of(workspace_id):
            self._refuse_deleted(workspace_id)
            content = digest(self._key, payload)
            known = self._store.workspace(workspace_id)
            if known is None:
                run = {name: payload[name] for name in ("task_id", "run_number", "output_branch")}
                if not self._store.add_workspace(workspace_id, content, payload, run, self._slots):
                    raise problems.Problem(503, "capacity", f"all {self._slots} slots of this node are taken")
                self._prepare(self._existing(workspace_id))
            else:
                if payload["fence"] < known.fence:
                    raise problems.fenced(workspace_id, payload["fence"], known.fence)
                if not hmac.compare_digest(content, known.digest):
                    raise problems.conflict("workspace", workspace_id)
                self._store.touch_workspace(workspace_id, payload["fence"])
                self._store.renew_token(
                    workspace_id, payload["callback_token"], payload["callback_generation"], speak=True
                )
            state = self.state(workspace_id)
            return state, 202 if state["status"] == "creating" else 200

    def state(self, workspace_id: str) -> dict[str, Any]:
        """As ``WorkspaceStateSchema``. Raises ``Problem`` for an id that was never seen."""
        workspace = self._store.workspace(workspace_id)
        if self._store.tombstone(workspace_id) is not None:
            return {"workspace_id": workspace_id, "status": "deleted", "base_commit": None, "error": None}
        if workspace is None:
            raise problems.unknown("workspace", workspace_id)
        return {
            "workspace_id": workspace_id,
            "status": workspace.status,
            "base_commit": workspace.clone["base_commit"] if workspace.clone else None,
            "error": workspace.error,
        }

    def delete(self, workspace_id: str, fence: int) -> dict[str, Any]:
        """Delete for good and answer once nothing is left. Raises ``Problem`` for an earlier writer's fence."""
        with self._locks.of(workspace_id):
            known = self._store.workspace(workspace_id)
            highest = max(self._store.tombstone(workspace_id) or 0, known.fence if known else 0)
            if fence < highest:
                raise problems.fenced(workspace_id, fence, highest)
            # First of all: whatever happens from here on, a paused writer can't bring it back.
            self._store.bury(workspace_id, fence)
            self._remove(workspace_id)
            return self.state(workspace_id)

    def start_session(self, workspace_id: str, session_id: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Start a session in a ready workspace; its state. Raises ``Problem``: deleted, fenced, conflict, not_ready."""
        with self._locks.of(workspace_id):
            self._refuse_deleted(workspace_id)
            workspace = self._existing(workspace_id)
            if payload["fence"] < workspace.fence:
                raise problems.fenced(workspace_id, payload["fence"], workspace.fence)
            self._store.touch_workspace(workspace_id, payload["fence"])
            return self._sessions.start(workspace, session_id, payload, digest(self._key, payload))

    def session_state(self, workspace_id: str, session_id: str) -> dict[str, Any]:
        """As ``SessionStateSchema``. Raises ``Problem``: deleted, unknown."""
        self._refuse_deleted(workspace_id)
        return self._sessions.state(workspace_id, session_id)

    def stop_session(self, workspace_id: str, session_id: str) -> dict[str, Any]:
        """Ask a session to end; its state. Raises ``Problem``: deleted, unknown."""
        self._refuse_deleted(workspace_id)
        return self._sessions.stop(workspace_id, session_id)

    def live(self) -> list[str]:
        """The ids of the workspaces that exist here."""
        return [workspace.id for workspace in self._store.workspaces("creating", "ready", "failed")]

    def _refuse_deleted(self, workspace_id: str) -> None:
        if self._store.tombstone(workspace_id) is not None:
            raise problems.deleted(workspace_id)

    def _existing(self, workspace_id: str) -> Workspace:
        workspace = self._store.workspace(workspace_id)
        if workspace is None:
            raise problems.unknown("workspace", workspace_id)
        return workspace

    def _remove(self, workspace_id: str) -> None:
        with self._locks.of(workspace_id):
            self._jobs.close(workspace_id)
            self._sessions.discard(workspace_id)
            thread = self._threads.pop(workspace_id, None)
            if thread is not None:
                thread.join()
            kill_processes(processes_with_env("TASKFLOW_WORKSPACE_ID", workspace_id), grace_s=0.0)
            self._isolation.end(workspace_id)
            self._isolation.release(workspace_id)
            remove_tree(self._places.workspace(workspace_id))
            self._store.forget_sessions(workspace_id)
            log.info("workspace %s deleted", workspace_id)

    def _prepare(self, workspace: Workspace) -> None:
        thread = threading.Thread(target=self._provision, args=(workspace,), name="provision", daemon=True)
        self._threads[workspace.id] = thread
        thread.start()

    def _provision(self, workspace: Workspace) -> None:
        try:
            answer = self._run_job(workspace)
        except Exception as error:
            log.exception("provisioning %s", workspace.id)
            answer = {"error": {"code": "internal", "message": str(error), "phase": "clone"}}
        if answer is None:
            return
        clone, error_report = answer.get("result"), answer.get("error")
        report = {
            "status": "failed" if error_report else "ready",
            "base_commit": clone["base_commit"] if clone else None,
            "error": error_report,
        }
        path = protocol.route(protocol.CALLBACK_WORKSPACE_OUTCOME, workspace_id=workspace.id)
        while True:
            try:
                ended = self._store.end_provisioning(
                    workspace.id, clone=clone, error=error_report, path=path, report=report
                )
                break
            except sqlite3.Error:  # a full disk: nobody else would report it before the agent's next start
                log.exception("reporting workspace %s", workspace.id)
                time.sleep(1.0)
        if ended:
            log.info("workspace %s %s", workspace.id, report["status"])
            self._outbox.ring()

    def _run_job(self, workspace: Workspace) -> dict[str, Any] | None:
        payload = workspace.payload
        assert payload is not None
        # What an agent that was killed left running in there; its own jobs end with it, this is for the rest.
        kill_processes(processes_with_env("TASKFLOW_WORKSPACE_ID", workspace.id), grace_s=0.0)
        self._isolation.end(workspace.id)
        confinement = self._isolation.prepare(workspace.id, payload.get("limits"))
        marks = task_env(workspace.run, workspace.id)
        order = ProvisionOrder(
            repo=str(self._places.repo(workspace.id)),
            repository=payload["repository"],
            branch=payload["branch"],
            output_branch=payload["output_branch"],
            setup_command=payload["setup_command"],
            git_env={**git_env(os.environ), **marks},
            setup_env={**workspace_env(os.environ, confinement), **marks, **payload["env"]},
            timeout_s=payload["provision_timeout_s"],
            private_hosts=payload.get("private_hosts", True),
            clean=str(self._places.clean(workspace.id)) if confinement.uid is not None else None,
            tree_env={**tree_git_env(os.environ, confinement), **marks},
            confinement=confinement,
        )
        return self._jobs.run(workspace.id, order, marks, order.timeout_s)
