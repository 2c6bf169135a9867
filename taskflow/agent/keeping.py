"""Keeping an agent alive where no systemd does: a daemon that starts it, and starts it again when it dies.

``keep`` starts the daemon and returns once it runs. There is one for each root; it holds ``keep.lock`` for its life and
leaves ``keep.json`` (pid, start_ticks). It ends with SIGTERM, with which it ends the agent too, or when the agent ended
with status 0: the control plane has no such node any more. Sessions outlive both, under their shims.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from taskflow.agent.ending import Ending
from taskflow.agent.launching import helper_env
from taskflow.agent.marks import marked
from taskflow.agent.places import is_locked, write_json
from taskflow.agent.problems import StartRefused
from taskflow.agent.processes import start_ticks

log = logging.getLogger(__name__)

LOG_BYTES_MAX = 10 * 1024 * 1024
_AGAIN_S = 2.0
_POLL_S = 0.25
_START_LIMIT_S = 20.0
_STOP_LIMIT_S = 5.0


def keep(root: Path, agent_arguments: list[str]) -> str:
    """Start the keeper of ``root`` and return what to say of it once it runs; one that runs already is left alone.

    ``agent_arguments``: the agent's command line without its root. Raises ``StartRefused``.
    """
    root = root.resolve()
    if not root.is_dir():
        raise StartRefused(f"there is no directory {root}; make it and put order.json there")
    with _open_log(root) as output:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "taskflow.agent.keeping", str(root), *agent_arguments],
            env=_absolute(marked(helper_env(os.environ), root)),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )
    assert keeper.stdout is not None
    with keeper.stdout:
        said = keeper.stdout.readline().decode().strip()
    if said not in ("started", "running"):
        keeper.wait(_START_LIMIT_S)
        raise StartRefused(f"the keeper of {root} did not start; {root / 'agent.log'} says why")
    return f"a keeper {'runs already' if said == 'running' else 'was started'} for {root}"


def _absolute(environ: dict[str, str]) -> dict[str, str]:
    """The place this package is imported from, also from another directory."""
    return {**environ, "PYTHONPATH": str(Path(environ["PYTHONPATH"]).resolve())}


def _open_log(root: Path) -> IO[bytes]:
    descriptor = os.open(root / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return os.fdopen(descriptor, "ab", buffering=0)


def take_lock(root: Path) -> IO[bytes] | None:
    """The keeper's place, as long as the returned file is open; None while somebody has it."""
    file = (root / "keep.lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


class Keeper:
    """The loop of the daemon."""

    def __init__(self, root: Path, argv: list[str], ended: Ending) -> None:
        self._root = root
        self._argv = argv
        self._ended = ended

    def run(self) -> None:
        """Keep the agent until it ends by itself or ``ended`` is set."""
        while not self._ended.is_set():
            # Somebody else's agent may hold the root: one that a killed keeper left, mostly.
            if not is_locked(self._root / "agent.lock"):
                try:
                    status = self._one_life()
                except OSError as error:  # no room for a process now: the agent ended for the same cause, mostly
                    log.error("the agent can't be started: %s; it is tried again in %g s", error, _AGAIN_S)
                    self._ended.wait(_AGAIN_S)
                    continue
                if status == 0 or status is None:
                    log.info("the agent ended; so does its keeper")
                    return
                log.error("the agent ended with status %s; it is started again in %g s", status, _AGAIN_S)
            self._ended.wait(_AGAIN_S)

    def _one_life(self) -> int | None:
        """Start the agent and follow it to its end: its status, None when it was we who ended it."""
        with _open_log(self._root) as output:
            agent = subprocess.Popen(self._argv, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        while agent.poll() is None:
            if self._ended.wait(_POLL_S):
                _end(agent)
                return None
            self._bound_log()
        return agent.returncode

    def _bound_log(self) -> None:
        """Agent and keeper append to one open file, so it is copied and cut and never replaced."""
        path = self._root / "agent.log"
        try:
            if path.stat().st_size > LOG_BYTES_MAX:
                shutil.copyfile(path, path.with_name("agent.log.1"))
                path.with_name("agent.log.1").chmod(0o600)
                os.truncate(path, 0)
        except OSError as error:
            log.warning("the log can't be cut: %s", error)


def _end(agent: subprocess.Popen[bytes]) -> None:
    agent.terminate()
    try:
        agent.wait(_STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        agent.kill()
        agent.wait()


def main(argv: list[str]) -> int:
    """Be the daemon. Says ``started`` or ``running`` on stdout, then lets go of who started it."""
    os.umask(0o077)
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    root = Path(argv[0])
    ended = Ending()
    ended.on_signals(signal.SIGTERM, signal.SIGINT)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the connection that it was started over ends
    lock = take_lock(root)
    if lock is None:
        print("running", flush=True)
        return 0
    write_json(root / "keep.json", {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())})
    print("started", flush=True)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    Keeper(root, [sys.executable, "-m", "taskflow.agent", "--root", str(root), *argv[1:]], ended).run()
    (root / "keep.json").unlink(missing_ok=True)
    lock.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
