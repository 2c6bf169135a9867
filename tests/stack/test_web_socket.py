"""The web takes the socket that its caller holds, so that it can be restarted without refusing anybody."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from taskflow.stack import commands
from tests.support.celery_processes import clean_environ
from tests.support.processes import die_with_parent, end_process
from tests.support.waiting import wait_until

#: The number under which systemd hands over the first socket.
_FIRST = 3


@contextlib.contextmanager
def web(listener: socket.socket, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The web process, started as systemd starts a unit that has a socket: number 3, and whom it is for."""
    environ = clean_environ(
        TASKFLOW_DATA_DIR=str(directory / "data"), TASKFLOW_REDIS_URL="redis://127.0.0.1:1/0", LISTEN_FDS="1",
        TASKFLOW_PORT="1", TASKFLOW_WEB_PROCESSES="1",
    )  # fmt: skip
    argv = ["/bin/sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", *commands.web_argv()]
    die = die_with_parent(signal.SIGTERM)

    def arrange() -> None:
        die()
        os.dup2(listener.fileno(), _FIRST)

    with (directory / "web.log").open("ab") as log:
        process = subprocess.Popen(
            argv, env=environ, stdout=log, stderr=log, pass_fds=(_FIRST,), cwd=directory, preexec_fn=arrange
        )
    try:
        yield process
    finally:
        end_process(process, signal.SIGTERM)


@pytest.mark.timeout(300)
def test_who_asks_while_the_web_is_restarted_waits_and_is_answered(tmp_path: Path) -> None:
    """One process ends, nobody is there, a request comes, another process starts: the request has its answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/healthz"
        with web(listener, tmp_path) as first:
            assert requests.get(url, timeout=100).ok
        assert first.returncode == 0
        answers: list[int] = []
        asking = threading.Thread(
            target=lambda: answers.append(requests.get(url, timeout=100).status_code), daemon=True
        )
        asking.start()
        wait_until(lambda: _waits(listener), "the request waits in the socket")
        assert answers == []
        with web(listener, tmp_path):
            asking.join(100)
    assert answers == [200]


def _waits(listener: socket.socket) -> bool:
    """Whether a connection was made that nobody took: the kernel's count of the socket's queue."""
    port = f"{listener.getsockname()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == f"0100007F:{port}" and fields[3] == "0A":  # listens
            return int(fields[4].split(":")[1], 16) > 0
    return False
