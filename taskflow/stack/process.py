"""One child process: its description, its start in a session of its own, its end together with all of its group."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taskflow.agent.processes import set_parent_death_signal
from taskflow.errors import InfrastructureError
from taskflow.logs import mask_text

#: A log above this size is put aside (``.1``, in the place of the one before) and begun anew.
LOG_BYTES_MAX = 10 * 1024 * 1024
TAIL_LINES = 20
_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True)
class ProcessSpec:
    """What to run and how to treat it.

    ``ready``: asked again and again after the start, must answer within about a second; None: ready once it runs.
    ``oneshot``: must exit 0 before the next one starts. ``essential``: its failure to start is the stack's failure.
    ``stop_signals``: (signal, seconds to wait after it), in order; then SIGKILL for the whole group.
    ``death_signal``: what the kernel sends when its starter is gone. ``before_start``: called before each start, may
    raise ``InfrastructureError``. ``inherit``: file descriptors it keeps open. ``secrets``: it is given the secret
    settings in its environment.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    ready: Callable[[], bool] | None = None
    ready_timeout_s: float = 60.0
    oneshot: bool = False
    essential: bool = True
    stop_signals: Sequence[tuple[int, float]] = ((signal.SIGTERM, 10.0),)
    death_signal: int = signal.SIGTERM
    before_start: Callable[[], None] | None = None
    inherit: Callable[[], Sequence[int]] = tuple
    secrets: bool = True


class SupervisedProcess:
    """A child described by ``spec``. All calls come from one thread, which must outlive the child.

    The kernel sends ``death_signal`` when the *thread* that started the child ends, not only the process.
    """

    def __init__(self, spec: ProcessSpec, environ: Mapping[str, str], log_path: Path, cwd: Path) -> None:
        self.spec = spec
        self.log_path = log_path
        self._environ = {**environ, **spec.env}
        self._cwd = cwd
        self._popen: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._starts = 0
        self.exit_code: int | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it lives; also the id of its group."""
        return self._popen.pid if self._popen else None

    def start(self) -> None:
        """Start it. Raises ``InfrastructureError`` when it can't be."""
        if self._popen is not None:
            raise ValueError(f"{self.spec.name} runs already")
        self.exit_code = None
        try:
            if self.spec.before_start:
                self.spec.before_start()
            log = self._open_log()
        except OSError as error:  # a full disk: whoever keeps the process tries again, and nothing else ends
            raise InfrastructureError(f"{self.spec.name} can't be started: {error}") from error
        parent, sig = os.getpid(), self.spec.death_signal

        def tie_to_parent() -> None:
            set_parent_death_signal(sig)
            if os.getppid() != parent:  # the parent died before the tie was made: nothing would tell us
                os._exit(1)

        try:
            self._popen = subprocess.Popen(
                list(self.spec.argv),
                env=self._environ,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, away from the terminal's Ctrl-C
                preexec_fn=tie_to_parent,
                pass_fds=tuple(self.spec.inherit()),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise InfrastructureError(f"{self.spec.name} can't be started: {error}") from error
        finally:
            os.close(log)

    def poll(self) -> int | None:
        """None while it lives, then its exit code (negative: the signal). What is left of its group is killed."""
        popen = self._popen
        if popen is None:
            return self.exit_code
        # Look without reaping: as long as the dead leader keeps its id, the group's id can't come to belong to others.
        if os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        kill_group(popen.pid)
        self.exit_code = popen.wait()
        self._popen = None
        return self.exit_code

    def is_ready(self) -> bool:
        """True when it answers as its spec asks."""
        return self.spec.ready is None or self.spec.ready()

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until it is ready. Raises ``InfrastructureError`` with the end of its log if it dies or takes longer."""
        end = time.monotonic() + timeout_s
        while True:
            if self.poll() is not None:
                raise self.failure(f"ended with {describe_exit(self.exit_code)} instead of becoming ready")
            if self.is_ready():
                return
            if time.monotonic() > end:
                raise self.failure(f"is not ready after {timeout_s:g} s")
            time.sleep(0.03)

    def send(self, sig: int) -> None:
        """Send a signal to the process itself, if it lives."""
        if self._popen is not None and self.poll() is None:
            os.kill(self._popen.pid, sig)  # not reaped yet, so the id is still its own

    def stop(self, hasten: threading.Event | None = None) -> None:
        """End it by its stop signals, then kill its group. ``hasten``: when set, kill at once."""
        if self._popen is None:
            return
        hasten = hasten or threading.Event()
        for sig, wait_s in self.spec.stop_signals:
            if self.poll() is not None or hasten.is_set():
                break
            self.send(sig)
            end = time.monotonic() + wait_s
            while self.poll() is None and time.monotonic() < end and not hasten.wait(0.02):
                pass
        self.kill()

    def kill(self) -> None:
        """SIGKILL for the whole group, and wait for it."""
        if self._popen is not None:
            kill_group(self._popen.pid)
            self.exit_code = self._popen.wait()
            self._popen = None

    def failure(self, what: str) -> InfrastructureError:
        """The error that says ``what`` about this process, with the end of its log."""
        tail = self.log_tail()
        said = f"; the end of {self.log_path}:\n{tail}" if tail else f" (nothing in {self.log_path})"
        return InfrastructureError(
            f"{self.spec.name} {what}{said}",
            code="process_failed",
            detail={"process": self.spec.name, "exit_code": self.exit_code, "log": str(self.log_path)},
        )

    def trim_log(self) -> None:
        """Put the log of a process that runs aside when it is too long. A line that is written meanwhile may be lost.

        Raises ``OSError`` where there is no room for a copy; then it is begun anew all the same.
        """
        if self.log_path.stat().st_size <= LOG_BYTES_MAX:
            return
        try:
            # Copied: the process goes on writing to the file that it has, at whatever is its end then.
            aside = os.open(self._log_aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with self.log_path.open("rb") as log, os.fdopen(aside, "wb") as copy:
                shutil.copyfileobj(log, copy)
        finally:
            os.truncate(self.log_path, 0)
            self._log_start = 0

    @property
    def _log_aside(self) -> Path:
        return self.log_path.with_name(self.log_path.name + ".1")

    def log_tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines written since the last start, secrets in URLs masked."""
        try:
            with self.log_path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, size - _TAIL_BYTES))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            return ""
        return mask_text("\n".join(text.strip().splitlines()[-lines:]))

    def _open_log(self) -> int:
        try:
            size = self.log_path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size and (self._starts == 0 or size > LOG_BYTES_MAX):
            self.log_path.replace(self._log_aside)
            size = 0
        self._starts += 1
        self._log_start = size
        return os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def describe_exit(code: int | None) -> str:
    """An exit code in words."""
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit status {code}"


def group_members(group: int) -> list[int]:
    """Living processes of a process group; zombies are not among them."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        state, _parent, its_group = text.rpartition(")")[2].split()[:3]
        if int(its_group) == group and state not in ("Z", "X"):
            found.append(int(entry.name))
    return found


def kill_group(group: int, *, limit_s: float = 5.0) -> list[int]:
    """SIGKILL for a group until nothing of it lives. Returns what is left after ``limit_s`` (stuck in the kernel).

    The caller holds the group's id: its leader is a child that was not waited for yet.
    """
    end = time.monotonic() + limit_s
    while True:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return []
        left = group_members(group)
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.01)
