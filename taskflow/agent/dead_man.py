"""The dead-man switch: an agent that reaches nobody for too long ends its sessions, because nobody can end them for it.

The control plane gives up a node that it has not heard of and runs its tasks elsewhere; what still runs here would do the
same work twice, and cost. Time is the machine's since its start, kept with the kernel's boot id, so neither a new agent
nor a clock that is set begins the wait again; a machine that was started again has no sessions and waits anew.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taskflow.agent.clock import boot_time
from taskflow.agent.problems import Problem
from taskflow.agent.store import Store

log = logging.getLogger(__name__)

_KEPT_AS = "last_contact"
_LONGEST_POLL_S = 1.0
_POWER_OFF = ("systemctl", "poweroff")


def kernel_boot_id() -> str:
    """Random, new with each start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def power_off(because: str = "nobody was reached for too long") -> None:
    """Shut the machine down, where we may. Nothing of anybody's runs on it, and nobody knows of it any more."""
    if os.geteuid() != 0:
        log.error("not powering off: the agent is not root")
        return
    log.error("%s: powering off", because)
    subprocess.run(_POWER_OFF, check=False, stdin=subprocess.DEVNULL, timeout=60)


class DeadMan:
    """Knows since when nobody was reached. Thread-safe.

    ``limit_s`` None: never cut off. ``end_sessions`` is called with the error of their outcome, again and again while cut
    off; it returns whether all have ended. ``afterwards`` is called once they have, once for each time of being cut off.
    """

    def __init__(
        self,
        store: Store,
        limit_s: float | None,
        *,
        end_sessions: Callable[[dict[str, Any]], bool],
        afterwards: Callable[[], None],
        ticks: Callable[[], float] = boot_time,
        boot_id: Callable[[], str] = kernel_boot_id,
    ) -> None:
        self._store = store
        self._limit_s = limit_s
        self._end_sessions = end_sessions
        self._afterwards = afterwards
        self._ticks = ticks
        self._lock = threading.Lock()
        self._cut_off = self._done = False
        self._tried = False  # since this agent's start: one that was away for long asks before it ends anything
        if limit_s is not None:
            self._boot_id = boot_id()
            self._contact = self._recall()

    def start(self) -> None:
        """Start watching."""
        if self._limit_s is not None:
            threading.Thread(target=self._run, name="dead-man", daemon=True).start()

    def heard(self, sent_at: float) -> None:
        """The control plane accepted a heartbeat that was sent when the machine's clock said ``sent_at``.

        The control plane counts from when it came in, which is later: so this wait never ends after that one. Raises
        ``sqlite3.Error`` when that can't be kept.
        """
        if self._limit_s is None:
            return
        with self._lock:
            if self._cut_off:
                log.warning("the control plane is reached again after %.0f s", self._ticks() - self._contact)
            self._contact = max(self._contact, sent_at)
            self._cut_off = self._done = False
            self._tried = True  # from here on the silence counts, also if the next attempt never comes back
            self._keep()

    def unheard(self) -> None:
        """A heartbeat was sent and not accepted."""
        self._tried = True

    def refuse_if_cut_off(self) -> None:
        """Raise ``Problem`` 503 ``cut_off`` while nobody was reached for too long."""
        if self._limit_s is not None and self._is_cut_off():
            raise Problem(503, "cut_off", f"{self._words()}; no work is taken until a heartbeat is accepted again")

    def look(self) -> None:
        """End the sessions if it is time."""
        if self._limit_s is None or not self._is_cut_off():
            return
        ended = self._end_sessions({"code": "cut_off", "message": self._words(), "phase": None})
        with self._lock:
            done, self._done = self._done, self._done or (ended and self._cut_off)
            first = self._done and not done
        if first:
            self._afterwards()

    def _run(self) -> None:
        assert self._limit_s is not None
        pause = threading.Event()
        while True:
            pause.wait(min(_LONGEST_POLL_S, self._limit_s / 10))
            try:
                self.look()
            except Exception:
                log.exception("dead-man switch")

    def _is_cut_off(self) -> bool:
        assert self._limit_s is not None
        with self._lock:
            if not self._cut_off and self._tried and self._ticks() - self._contact > self._limit_s:
                self._cut_off = True
                log.error("cut off: %s", self._words())
            return self._cut_off

    def _words(self) -> str:
        silence_s = self._ticks() - self._contact
        return f"the control plane was not reached for {silence_s:.0f} s; at most {self._limit_s:g} s are allowed"

    def _recall(self) -> float:
        kept = self._store.recall(_KEPT_AS)
        if kept is not None and kept["boot_id"] == self._boot_id:
            return float(kept["at"])
        self._contact = self._ticks()
        try:
            self._keep()
        except sqlite3.Error:
            log.exception("the start can't be kept; a restart of the agent would begin the wait again")
        return self._contact

    def _keep(self) -> None:
        self._store.remember(_KEPT_AS, {"at": self._contact, "boot_id": self._boot_id})
