"""The command line over a scripted server, with an environment and a repository of the test's own."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result
from structlog.testing import capture_logs
from werkzeug.serving import make_server

from taskflow.cli.app import cli
from tests.cli.fake_server import FakeServer
from tests.web.conftest import control, database, world  # noqa: F401  fixtures
from tests.web.world import World

Invoke = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """A running scripted server."""
    fake = FakeServer()
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of whoever runs the tests; a data directory that nothing serves."""
    for name in [name for name in os.environ if name.startswith(("TASKFLOW_", "GIT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TASKFLOW_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Commands set up logging for their process; here that is the tests' own."""
    root = logging.getLogger()
    handlers, level, config = list(root.handlers), root.level, structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**config)


@pytest.fixture
def connected(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """The server, which the environment names."""
    monkeypatch.setenv("TASKFLOW_URL", server.url)
    monkeypatch.setenv("TASKFLOW_TOKEN", server.token)
    return server


@pytest.fixture
def api(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:  # noqa: F811
    """The real application behind a real socket, which the environment names."""
    server = make_server("127.0.0.1", 0, world.client.application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setenv("TASKFLOW_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("TASKFLOW_TOKEN", world.token)
    with capture_logs():  # its log lines are not the command's output
        yield world
    world.client.application.extensions["taskflow.streams"].stop_when(lambda: True)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def invoke() -> Invoke:
    """Run ``taskflow`` with these arguments, in this process."""

    def run(*argv: str) -> Result:
        return CliRunner().invoke(cli, list(argv))

    return run


def git(path: Path, *arguments: str) -> str:
    """Run git there."""
    return subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments],
        cwd=path, check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one commit on ``main``."""
    path = tmp_path / "repo"
    path.mkdir()
    git(path, "-c", "init.defaultBranch=main", "init", "-q")
    (path / "README").write_text("hello\n", encoding="utf-8")
    git(path, "add", "README")
    git(path, "commit", "-q", "-m", "one")
    return path
