"""Running git, and other commands of a job, with a limit, without a prompt and with nothing left behind."""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from taskflow.agent.confinement import Confinement
from taskflow.agent.processes import kill_tree, set_parent_death_signal

_TAIL_BYTES = 4000
#: What git begins the lines with that say why it failed.
_CAUSES = ("fatal: ", "error: ")
_CREDENTIALS = re.compile(r"(\w[\w+.-]*://)[^/@\s]+@")


class JobFailure(Exception):
    """A part of a job failed. ``phase`` says which, ``message`` is the cause's own words."""

    def __init__(self, code: str, message: str, phase: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.phase = phase

    def as_dict(self) -> dict[str, str]:
        """As the protocol's error."""
        return {"code": self.code, "message": self.message, "phase": self.phase}


class Deadline:
    """A limit that several commands share, in seconds from now."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._end = time.monotonic() + limit_s

    def left_s(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - time.monotonic())


@dataclass(frozen=True)
class Finished:
    """A command that ended by itself."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """Its standard output without the last newline."""
        return self.out.decode("utf-8", "replace").strip()


def without_credentials(text: str) -> str:
    """``text`` with user names and passwords inside URLs replaced."""
    return _CREDENTIALS.sub(r"\1***@", text)


def cause_first(text: str) -> str:
    """What git said, and before that the lines in which it says why it gave up: who shows one line shows that."""
    lines = text.splitlines()
    return "\n".join(sorted(lines, key=lambda line: not line.startswith(_CAUSES)))


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, 2)
    file.seek(max(0, size - _TAIL_BYTES))
    return without_credentials(file.read().decode("utf-8", "replace").strip())


def run(
    argv: list[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    deadline: Deadline,
    phase: str,
    merge: bool = False,
    confinement: Confinement | None = None,
    stdin: int = subprocess.DEVNULL,
    into: IO[bytes] | None = None,
    into_bytes_max: int = 0,
) -> Finished:
    """Run a command to its end. Raises ``JobFailure`` (codes ``timeout``, ``not_started``, ``too_large``).

    Call it from the main thread: the command dies with that thread. Output goes to files, not pipes, because a daemon
    that the command leaves would keep a pipe open and us waiting. With ``merge`` both outputs are in ``err``. With
    ``into`` its standard output goes to that file alone, and no file it writes is longer than ``into_bytes_max``.
    """

    def in_child() -> None:
        if into is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (into_bytes_max, into_bytes_max))
        if confinement is not None:
            confinement.enter()
        set_parent_death_signal(signal.SIGKILL)  # last: a change of the user clears it

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                env=dict(env),
                stdin=stdin,
                stdout=err if merge else into or out,
                stderr=err,
                start_new_session=True,  # no terminal to prompt on, and a group of its own
                preexec_fn=in_child,
            )
        except OSError as error:
            raise JobFailure("not_started", f"{argv[0]}: {error.strerror}", phase) from error
        except subprocess.SubprocessError as error:
            raise JobFailure("not_started", f"{argv[0]}: its user or limits can't be set: {error}", phase) from error
        try:
            code = process.wait(timeout=deadline.left_s())
        except subprocess.TimeoutExpired as error:
            message = f"not finished within {deadline.limit_s:g} s: {' '.join(argv[:2])}\n{_tail(err)}".strip()
            raise JobFailure("timeout", message, phase) from error
        finally:
            if process.poll() is None:
                kill_tree(process.pid, grace_s=1.0)
                process.wait()
        if into is not None and into.seek(0, 2) >= into_bytes_max:
            raise JobFailure("too_large", f"more than {into_bytes_max} bytes: {' '.join(argv[:2])}", phase)
        out.seek(0)
        return Finished(code, out.read(), _tail(err))


class Git:
    """git in one working tree, as the user of ``confinement``, without one the agent's own.

    Hooks are off: a clone has none of its own, and those a session's command left must not run with our rights. Nor
    may the tree make git look for a repository above it.
    """

    _SAFE = (
        "core.hooksPath=/dev/null",
        "core.fsmonitor=false",
        "commit.gpgSign=false",  # would ask for a passphrase
        "gc.auto=0",  # starts a process that outlives its parent
        "maintenance.auto=false",
        "http.followRedirects=false",  # the host that was checked is the host that is asked
        "protocol.ext.allow=never",
        "submodule.recurse=false",
    )

    def __init__(
        self, repo: Path, env: Mapping[str, str], deadline: Deadline, confinement: Confinement | None = None
    ) -> None:
        self.repo = repo
        self._deadline = deadline
        self._confinement = confinement
        self._env = {**env, "GIT_CEILING_DIRECTORIES": str(repo.parent)}
        if confinement is not None:
            return  # a workspace's git speaks with no host, and what its configuration says is for itself alone
        if "GIT_SSH_COMMAND" not in env and "GIT_SSH" not in env:
            configured = self.ask("config", "core.sshCommand", cwd=repo.parent).text
            self._env["GIT_SSH_COMMAND"] = f"{configured or 'ssh'} -o BatchMode=yes"

    def ask(
        self,
        *arguments: str,
        phase: str = "clone",
        cwd: Path | None = None,
        config: tuple[str, ...] = (),
        **output: Any,
    ) -> Finished:
        """Run git; its exit status is the caller's to judge. ``output``: ``into`` and ``into_bytes_max`` of ``run``."""
        argv = ["git"]
        for setting in (*self._SAFE, *config):
            argv += ["-c", setting]
        return self.run([*argv, *arguments], phase=phase, cwd=cwd, **output)

    def must(
        self, *arguments: str, phase: str, cwd: Path | None = None, config: tuple[str, ...] = (), **output: Any
    ) -> Finished:
        """Run git. Raises ``JobFailure`` with git's own message, its cause first, when it fails."""
        done = self.ask(*arguments, phase=phase, cwd=cwd, config=config, **output)
        if done.code != 0:
            message = cause_first(done.err) or done.text or f"git {arguments[0]} ended with status {done.code}"
            raise JobFailure("git_failed", message, phase)
        return done

    def run(self, argv: list[str], *, phase: str, cwd: Path | None = None, **output: Any) -> Finished:
        """Run any command where, and as whom, git runs."""
        return run(
            argv, cwd=cwd or self.repo, env=self._env, deadline=self._deadline, phase=phase,
            confinement=self._confinement, **output,
        )  # fmt: skip
