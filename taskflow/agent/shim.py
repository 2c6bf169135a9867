"""Keeps one command: ``python -m taskflow.agent.shim SESSION_DIR``, with the order as JSON on stdin.

It outlives the agent, so that a command and its outcome survive an agent's restart. In its directory it holds
``shim.lock`` for its life, and leaves ``shim.json`` (it began; never begun twice), ``output.log`` (secrets masked) and
``exit.json`` (how it ended). A file ``stop`` there, or SIGTERM, asks it to end the command. The order holds secrets and
is never written anywhere.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from taskflow.agent import lifeline
from taskflow.agent.confinement import COMMON, Confinement
from taskflow.agent.containers import launch
from taskflow.agent.killing import end_all
from taskflow.agent.masking import Masker
from taskflow.agent.places import is_locked, read_json, write_json
from taskflow.agent.processes import become_subreaper, kill_descendants, set_parent_death_signal, start_ticks

GRACE_S = 5.0  # between SIGTERM and SIGKILL
DRAIN_S = 2.0  # for what is still in the pipe once every process is gone
#: Why the command was ended when the lifeline is cut. Nobody says whether it was by an ordered stop.
STACK_GONE = {
    "code": "stack_gone",
    "message": "the stack on its machine was stopped or killed, and the command ended with it",
}
_TICK_S = 0.2
_READ_BYTES = 64 * 1024


def lock_is_free(session_dir: Path) -> bool:
    """True when no shim lives in ``session_dir``."""
    return not is_locked(session_dir / "shim.lock")


def request_stop(session_dir: Path, grace_s: float = GRACE_S, *, lost: dict[str, Any] | None = None) -> None:
    """Ask the shim to end its command, with ``grace_s`` seconds between SIGTERM and SIGKILL. Repeats are fine.

    It ends as ``stopped``, or as ``lost`` with the error that is given.
    """
    write_json(session_dir / "stop", {"grace_s": grace_s, "verdict": "lost" if lost else "stopped", "error": lost})


@dataclass(frozen=True)
class Order:
    """What to run. ``env`` is the whole environment, secrets included; ``secrets`` are the values to hide."""

    command: list[str]
    cwd: str
    env: dict[str, str]
    secrets: list[str]
    time_limit_s: float
    log_limit_bytes: int
    lifeline: str | None
    confinement: Confinement = COMMON


class Output:
    """The output file: masked, and cut at a limit with a line that says so.

    A disk that takes no more cuts it too: the command goes on, as it would at the limit.
    """

    def __init__(self, path: Path, secrets: list[str], limit_bytes: int) -> None:
        self._file: IO[bytes] = path.open("ab", buffering=0)
        self._masker = Masker(secrets)
        self._limit = limit_bytes
        self._left = limit_bytes
        self._refused: str | None = None  # the disk's own words
        self.truncated = False

    def write(self, data: bytes) -> None:
        """Add what the command wrote."""
        self._put(self._masker.feed(data))

    def close(self) -> None:
        """Write what was held back and make it durable: the outcome must not be there without its output.

        Raises ``OSError`` while the disk takes nothing; call it again then.
        """
        if self._file.closed:
            return
        self._put(self._masker.finish())
        if self._refused is not None:
            self._write(f"\n[taskflow: output cut: {self._refused}]\n".encode())
        os.fsync(self._file.fileno())
        self._file.close()

    def _put(self, data: bytes) -> None:
        if self.truncated or not data:
            return
        if len(data) > self._left:
            self.truncated = True
            data = data[: self._left] + f"\n[taskflow: output cut at {self._limit} bytes]\n".encode()
        self._left -= len(data)
        try:
            self._write(data)
        except OSError as error:
            self._refused, self.truncated = error.strerror, True

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]


class Shim:
    """One run of one command. ``run`` returns the content of ``exit.json``."""

    def __init__(self, session_dir: Path, order: Order) -> None:
        self._dir = session_dir
        self._order = order
        self.output = Output(session_dir / "output.log", order.secrets, order.log_limit_bytes)
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self.supervisor_gone = False  # then nobody waits for the outcome any more
        self._terminated = False
        self._verdict: str | None = None  # why we are ending the command; None while it may run
        self._error: dict[str, Any] | None = None  # of a verdict that somebody else gave
        self._kill_at: float | None = None
        self._started = time.monotonic()
        self._memory_kills = order.confinement.memory_kills()

    def run(self) -> dict[str, Any]:
        """Run the command to its end, whichever that is."""
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            process = self._start()
        except OSError as error:
            return self._not_started(error)
        except subprocess.SubprocessError as error:  # what is done between fork and exec
            return self._not_started(OSError(errno.EPERM, f"its user or limits can't be set: {error}"))
        if self._order.lifeline is not None:
            lifeline.watch(Path(self._order.lifeline), self._on_supervisor_gone)
        assert process.stdout is not None
        self._follow(process, process.stdout)
        end_all(self._order.confinement)
        kill_descendants(os.getpid())
        code = process.wait()
        self._drain(process.stdout)
        outcome = self._verdict or "exited"
        report = self._report(outcome, code if outcome == "exited" else None)
        # What was ended from here did not end for lack of memory, whatever became of its children before.
        if self._verdict is None and code != 0 and self._order.confinement.memory_kills() > self._memory_kills:
            message = f"{self._order.command[0]}: {self._order.confinement.memory_message()}"
            report["error"] = {"code": "out_of_memory", "message": message, "phase": "run"}
        return report

    def _start(self) -> subprocess.Popen[bytes]:
        how = launch(self._order.command, self._order.env, self._order.cwd, self._order.confinement)

        def in_child() -> None:
            how.confinement.enter()
            # After it: a change of the user clears this. Should the shim be killed, nobody would enforce limits or know
            # the outcome, so the command goes with it.
            set_parent_death_signal(signal.SIGKILL)

        try:
            return subprocess.Popen(
                how.argv,
                cwd=self._order.cwd,
                env=how.env,
                stdin=how.stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,  # one pipe: the order of the two is kept
                start_new_session=True,
                preexec_fn=in_child,
            )
        finally:
            os.close(how.stdin)

    def _not_started(self, error: OSError) -> dict[str, Any]:
        message = f"{self._order.command[0]}: {error.strerror}"
        if error.errno == errno.ENOENT and not Path(self._order.cwd).is_dir():
            message = f"{self._order.cwd}: {error.strerror}"
        self.output.write(message.encode() + b"\n")
        report = self._report("exited", 127 if error.errno == errno.ENOENT else 126)
        report["error"] = {"code": "command_not_started", "message": message, "phase": "start"}
        return report

    def _report(self, outcome: str, exit_code: int | None) -> dict[str, Any]:
        return {
            "outcome": outcome,
            "exit_code": exit_code,
            "duration_s": round(time.monotonic() - self._started, 3),
            "log_truncated": self.output.truncated,
            "error": self._error,
        }

    def _on_term(self, *_: object) -> None:
        self._terminated = True
        self._wake()

    def _on_supervisor_gone(self) -> None:
        self.supervisor_gone = True
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            pass  # full: it is awake already

    def _follow(self, process: subprocess.Popen[bytes], pipe: IO[bytes]) -> None:
        """Pump output and keep the limits until the command itself is gone."""
        self._selector.register(pipe, selectors.EVENT_READ)
        os.set_blocking(pipe.fileno(), False)
        signal.signal(signal.SIGCHLD, lambda *_: self._wake())
        open_ = True
        while process.poll() is None:
            for key, _ in self._selector.select(_TICK_S):
                if key.fd == self._wake_read:
                    os.read(self._wake_read, 4096)
                elif open_ and self._read(pipe) is False:
                    open_ = False
                    self._selector.unregister(pipe)
            self._keep_limits(process)
            self._reap_orphans(process.pid)
        if open_:
            self._selector.unregister(pipe)

    def _read(self, pipe: IO[bytes]) -> bool | None:
        """One read: True for data, None for nothing yet, False at the end."""
        try:
            data = os.read(pipe.fileno(), _READ_BYTES)
        except BlockingIOError:
            return None
        if data:
            self.output.write(data)
        return bool(data)

    def _keep_limits(self, process: subprocess.Popen[bytes]) -> None:
        now = time.monotonic()
        if self.supervisor_gone and self._verdict != "lost":
            self._verdict, self._error, self._kill_at = "lost", STACK_GONE, now
        elif self._verdict is None:
            if self._terminated or (self._dir / "stop").exists():
                self._stop(process)
            elif now - self._started >= self._order.time_limit_s:
                self._end(process, "timed_out", GRACE_S)
        if self._kill_at is not None and now >= self._kill_at:
            _signal_group(process.pid, signal.SIGKILL)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        asked = read_json(self._dir / "stop") or {}
        if asked.get("verdict") == "lost":
            self._error = asked.get("error")
        grace_s = asked.get("grace_s")
        self._end(
            process,
            "lost" if self._error else "stopped",
            float(grace_s) if isinstance(grace_s, (int, float)) else GRACE_S,
        )

    def _end(self, process: subprocess.Popen[bytes], verdict: str, grace_s: float) -> None:
        self._verdict = verdict
        self._kill_at = time.monotonic() + grace_s
        _signal_group(process.pid, signal.SIGTERM)

    @staticmethod
    def _reap_orphans(command_pid: int) -> None:
        """Collect orphans that became our children and ended; the command itself is ``Popen``'s to collect."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid == command_pid:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)

    def _drain(self, pipe: IO[bytes]) -> None:
        end = time.monotonic() + DRAIN_S
        while time.monotonic() < end:
            state = self._read(pipe)
            if state is False:
                return
            if state is None:
                time.sleep(0.01)


def _signal_group(group: int, sig: int) -> None:
    try:
        os.killpg(group, sig)
    except (ProcessLookupError, PermissionError):
        pass


def _take_lock(session_dir: Path) -> IO[bytes] | None:
    file = (session_dir / "shim.lock").open("ab")
    end = time.monotonic() + 2.0
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            # An agent that probes the lock holds it for a moment; a living shim holds it for good.
            if time.monotonic() > end:
                file.close()
                return None
            time.sleep(0.02)


def _begin(session_dir: Path) -> bool:
    """Claim the session: False when a shim has begun it before, alive or not. A command is never started twice."""
    try:
        descriptor = os.open(session_dir / "shim.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())}, file)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        _unbegin(session_dir)
        raise
    return True


def _unbegin(session_dir: Path) -> None:
    """A full disk, before the command was started: the session may be begun again."""
    (session_dir / "shim.json").unlink(missing_ok=True)


def _leave_report(session_dir: Path, report: dict[str, Any], shim: Shim) -> None:
    """Write ``exit.json``, waiting for room on a full disk: without it nobody could say how the command ended."""
    while True:
        try:
            shim.output.close()
            report["log_truncated"] = shim.output.truncated
            write_json(session_dir / "exit.json", report)
            return
        except FileNotFoundError:
            return  # the workspace was deleted
        except OSError:
            if shim.supervisor_gone:
                return
            time.sleep(1.0)


def _say(word: str) -> None:
    """Tell the agent, if it still lives: one killed while we were starting has left us its whole order."""
    try:
        os.write(1, f"{word}\n".encode())
    except BrokenPipeError:
        pass  # what has begun is never begun again, so it goes on; the agent's successor follows it


def main(argv: list[str]) -> int:
    """Run the shim. Answers ``ok`` or ``taken`` on stdout before the command starts, then lets go of the agent."""
    session_dir = Path(argv[0])
    data = json.load(sys.stdin)
    order = Order(**{**data, "confinement": Confinement.of(data.get("confinement"))})
    become_subreaper()
    lock = _take_lock(session_dir)
    if lock is None or not _begin(session_dir):
        _say("taken")
        return 0
    try:
        shim = Shim(session_dir, order)
    except OSError:
        _unbegin(session_dir)
        raise
    _say("ok")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    report = shim.run()
    _leave_report(session_dir, report, shim)
    lock.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
