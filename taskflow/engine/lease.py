"""Renewal: one thread per process keeps the leases of running turns, and lets go of a step that hangs."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from taskflow.clock import Clock
from taskflow.engine.control import Control
from taskflow.ids import RunId

log = structlog.get_logger(__name__)


def _place() -> str:
    """Where a process id means something: the host, and the container in it."""
    try:
        space = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # not Linux: there is one for the whole host
        space = 0
    return f"{socket.gethostname()}:{space}"


def process_name() -> str:
    """This process among those of all hosts: ``<host>:<pid namespace>:<pid>``."""
    return f"{_place()}:{os.getpid()}"


def new_token() -> str:
    """A lease value that names its owner: its process, and ``:<random>``."""
    return f"{process_name()}:{secrets.token_hex(8)}"


def owner_is_gone(token: str) -> bool:
    """Whether the process that made ``token`` ran here and is no more. A pid that was given anew counts as alive.

    One that has ended is gone before its parent took note: an orphan's is the init of its container, in its own time.
    """
    place, _, pid = token.rpartition(":")[0].rpartition(":")
    if place != _place() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return _has_ended(int(pid))


def _has_ended(pid: int) -> bool:
    """Whether a process that is still listed has ended (a zombie). False where that can't be asked."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux, or reaped meanwhile: then the lease tells
        return False
    return stat.rpartition(")")[2].split()[0] in ("Z", "X")  # its name, in brackets before, may hold anything


@dataclass
class _Held:
    run_id: RunId
    token: str
    stop_at: float
    step: str


class Renewer:
    """Extends the leases of this process every third of the lease time.

    When a step is past its ``timeout_s`` the lease is no longer extended: it runs out and another worker takes over.
    ``on_hung`` is then told, once the lease must be over, so that the process can be recycled.
    """

    def __init__(self, control: Control, clock: Clock, on_hung: Callable[[str], None]) -> None:
        self._control = control
        self._clock = clock
        self._on_hung = on_hung
        self._held: dict[str, _Held] = {}
        self._mutex = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def hold(self, run_id: RunId, token: str, timeout_s: float, step: str) -> Iterator[None]:
        """Renew the lease while the block runs, for at most ``timeout_s``."""
        held = _Held(run_id, token, self._clock.monotonic() + timeout_s, step)
        with self._mutex:
            self._held[token] = held
            self._start()
        try:
            yield
        finally:
            with self._mutex:
                self._held.pop(token, None)

    def renew_once(self) -> None:
        """Renew every lease once, and report the hung ones."""
        with self._mutex:
            held = list(self._held.values())
        now = self._clock.monotonic()
        for one in held:
            if now >= one.stop_at + self._control.lease_s:
                log.error("step_hung", run_id=one.run_id, step=one.step)
                self._on_hung(one.step)
            elif now < one.stop_at:
                try:
                    self._control.renew(one.run_id, one.token)
                except Exception as error:  # Redis away: the lease runs out, SQL's fence decides
                    log.warning("renewal_failed", run_id=one.run_id, error=repr(error))

    def stop(self) -> None:
        """Renew nothing any more; what is held runs out."""
        self._wake.set()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="lease-renewal", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._wake.wait(self._control.lease_s / 3):
            self.renew_once()
