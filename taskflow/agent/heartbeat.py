"""Telling the control plane that this node is there and how it is doing."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taskflow import __version__, protocol
from taskflow.agent.clock import boot_time
from taskflow.agent.wire import Answer, Key, Wire, wait_s

log = logging.getLogger(__name__)


def _memory_percent() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {name: float(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return round(100.0 * (1.0 - sizes["MemAvailable"] / sizes["MemTotal"]), 1)
    except (OSError, KeyError, ValueError, IndexError):
        return None


def _disk_percent(path: Path) -> float | None:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return round(100.0 * usage.used / usage.total, 1) if usage.total else None


def measure(
    *, boot_id: str, address: str, root: Path, workspaces: list[str], sessions: list[dict[str, Any]]
) -> dict[str, Any]:
    """A heartbeat of this moment, as ``HeartbeatSchema``. What the host does not tell is None."""
    return {
        "protocol_version": protocol.PROTOCOL_VERSION,
        "agent_version": __version__,
        "boot_id": boot_id,
        "address": address,
        "ready": True,
        "cores": os.cpu_count(),
        "load1": round(os.getloadavg()[0], 2),
        "memory_percent": _memory_percent(),
        "disk_percent": _disk_percent(root),
        "workspaces": workspaces,
        "sessions": sessions,
    }


class Heartbeat:
    """Sends ready until it is accepted, then a heartbeat every ``interval_s`` seconds, in a thread of its own.

    ``answered`` is called after each attempt with what came back and the ``ticks`` at which it was sent, ``gone`` once when
    the control plane says that there is no such node any more.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        node_id: str,
        key: Callable[[], Key],
        interval_s: float,
        beat: Callable[[], dict[str, Any]],
        answered: Callable[[Answer, float], None],
        gone: Callable[[], None],
        ticks: Callable[[], float] = boot_time,
    ) -> None:
        self._wire = wire
        self._node_id = node_id
        self._key = key
        self._interval_s = interval_s
        self._beat = beat
        self._answered = answered
        self._gone = gone
        self._ticks = ticks
        self._closed = threading.Event()

    def start(self) -> None:
        """Start sending."""
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def close(self) -> None:
        """Send no more."""
        self._closed.set()

    def _send(self, path: str) -> Answer:
        try:
            return self._wire.post(path, self._key(), self._beat())
        except Exception:  # a disk that can't be read: without this thread the node would be given up
            log.exception("heartbeat")
            return Answer(0, {})

    def _take(self, answer: Answer, sent_at: float) -> None:
        try:
            self._answered(answer, sent_at)
        except Exception:  # a full disk: the next answer says it again
            log.exception("heartbeat's answer")

    def _run(self) -> None:
        path, attempts = protocol.route(protocol.CALLBACK_NODE_READY, node_id=self._node_id), 0
        while not self._closed.is_set():
            sent_at = self._ticks()
            answer = self._send(path)
            if answer.over:
                log.error("the control plane has no node %s any more (%s)", self._node_id, answer.status)
                self._gone()
                return
            self._take(answer, sent_at)
            if answer.accepted:
                path, attempts = protocol.route(protocol.CALLBACK_NODE_HEARTBEAT, node_id=self._node_id), 0
                self._closed.wait(self._interval_s)
            else:
                if answer.final:
                    log.error("the control plane refuses this node: %s %s", answer.status, answer.says)
                # A heartbeat holds for the moment it is made, so a late one is never worth waiting longer for.
                self._closed.wait(min(self._interval_s, wait_s(attempts)) if not answer.final else self._interval_s)
                attempts += 1
