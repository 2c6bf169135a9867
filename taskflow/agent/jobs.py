"""Running job processes from the agent, one at a time for each workspace, with a way to end them."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import threading
from typing import Any

from taskflow.agent.finish import FinishOrder
from taskflow.agent.launching import git_env, helper_argv, helper_env
from taskflow.agent.processes import kill_tree
from taskflow.agent.provision import ProvisionOrder

log = logging.getLogger(__name__)

_SLACK_S = 30.0  # a job keeps its own limit; this ends one that does not


class Jobs:
    """The job processes that run now, by workspace."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._closed: set[str] = set()

    def run(
        self, workspace_id: str, order: ProvisionOrder | FinishOrder, env: dict[str, str], limit_s: float
    ) -> dict[str, Any] | None:
        """Run a job to its end and return its answer; None when it was cancelled.

        ``env`` marks the job's process as the workspace's. Call it from a thread that waits for the answer: the
        kernel ends the job with the thread that started it.
        """
        kind = "provision" if isinstance(order, ProvisionOrder) else "finish"
        text = json.dumps({"kind": kind, **dataclasses.asdict(order)}).encode()
        with self._lock:
            if workspace_id in self._closed:
                return None
            process = subprocess.Popen(
                helper_argv("job", str(os.getpid())),
                env=helper_env({**git_env(os.environ), **env}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            self._running[workspace_id] = process
        try:
            out, _ = process.communicate(text, timeout=limit_s + _SLACK_S)
        except subprocess.TimeoutExpired:
            kill_tree(process.pid, grace_s=3.0)
            process.communicate()
            return {"error": {"code": "timeout", "message": f"not finished within {limit_s:g} s", "phase": kind}}
        finally:
            with self._lock:
                self._running.pop(workspace_id, None)
                closed = workspace_id in self._closed
        if closed:
            return None
        try:
            answer: dict[str, Any] = json.loads(out)
        except ValueError:
            message = f"the {kind} process ended with status {process.returncode} and no answer"
            log.error("%s: workspace %s", message, workspace_id)
            return {"error": {"code": "internal", "message": message, "phase": kind}}
        return answer

    def close(self, workspace_id: str) -> None:
        """End the workspace's job and let no further one start."""
        with self._lock:
            self._closed.add(workspace_id)
            process = self._running.get(workspace_id)
        if process is not None:
            kill_tree(process.pid, grace_s=3.0)
