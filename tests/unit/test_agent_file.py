"""The agent as one file: what is in it, and that a bare Python runs it."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from taskflow import agent_file as module
from taskflow.agent_file import AgentFile, agent_file
from taskflow.errors import InfrastructureError
from tests.support.waiting import wait_until

#: A Python that has nothing of ours: no site-packages, no variables of the environment.
BARE = ("-S", "-E")


def _pythons() -> list[str]:
    """One of each version that is installed here, this one included."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    homes = Path.home() / ".pyenv" / "versions"
    for version in ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14"):
        candidates = [str(path) for path in homes.glob(f"{version}.*/bin/python3")] + [shutil.which(f"python{version}")]
        for candidate in filter(None, candidates):
            works = subprocess.run([candidate, *BARE, "-c", "import ssl, sqlite3"], capture_output=True, check=False)
            if works.returncode == 0:
                found.setdefault(version, candidate)
    return [found[version] for version in sorted(found)]


def _oldest() -> tuple[int, ...]:
    """Of the Pythons that what is installed here runs on."""
    needed, _ = module._closure(module._imported(dict(module._own_files()).values()))
    return tuple(int(part) for part in module._oldest_python(needed).split("."))


def _runs(python: str) -> bool:
    asked = subprocess.run([python, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, check=True)
    return tuple(map(int, asked.stdout.split())) >= _oldest()


RUNNING = [python for python in _pythons() if _runs(python)]
TOO_OLD = [python for python in _pythons() if not _runs(python)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of this installation."""
    return agent_file(tmp_path_factory.mktemp("agent"))


def test_it_holds_the_agent_and_what_it_imports_and_nothing_else_of_ours(built: Path) -> None:
    """No secret, no part of the control plane."""
    with zipfile.ZipFile(built) as archive:
        ours = {name for name in archive.namelist() if name.startswith("taskflow/") and not name.endswith("/")}
    outside = {name for name in ours if not name.startswith("taskflow/agent/")}
    shared = {f"taskflow/{name}.py" for name in ("__init__", "protocol", "signing", "addresses")}
    assert {"taskflow/__init__.py", "taskflow/protocol.py"} <= outside <= shared
    home = Path(module.__file__).parent
    assert ours - outside == {path.relative_to(home.parent).as_posix() for path in (home / "agent").rglob("*.py")}


def test_what_it_needs_is_found_by_what_is_imported_and_required(built: Path) -> None:
    """Dependencies of dependencies too; none of it is compiled for this machine."""
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops >= {"flask", "werkzeug", "jinja2", "markupsafe", "itsdangerous", "marshmallow", "requests", "urllib3"}
    assert tops >= {"idna", "certifi", "charset_normalizer", "click", "blinker"}
    assert not tops & {"sqlalchemy", "celery", "redis", "cryptography"}
    assert "certifi/cacert.pem" in names
    assert not [name for name in names if name.endswith((".so", ".pyd", ".pyc", ".dylib", ".c", "RECORD"))]
    assert [name for name in names if ".." in name or name.startswith("/")] == []


def test_the_same_installation_gives_the_same_bytes_under_the_same_name(built: Path, tmp_path: Path) -> None:
    """And it is built once: who asks again gets the one that is there."""
    again = agent_file(tmp_path / "new")
    assert (again.name, again.read_bytes()) == (built.name, built.read_bytes())
    before = again.stat()
    assert agent_file(tmp_path / "new").stat() == before
    assert [path.name for path in (tmp_path / "new").iterdir() if path.suffix == ".pyz"] == [again.name]
    assert stat.S_IMODE(before.st_mode) == 0o644


def test_another_content_has_another_name(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade is fetched by new servers, however old the file beside it is."""
    monkeypatch.setattr(module, "_MAIN", module._MAIN + "# another release\n")
    assert agent_file(tmp_path).name != built.name


def test_many_that_ask_at_once_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One builder at a time, in threads and in processes."""
    made = []
    archive = module._archive

    def counted(content: Any) -> Any:
        made.append(1)
        return archive(content)

    monkeypatch.setattr(module, "_archive", counted)
    shelf, paths = AgentFile(tmp_path), []
    threads = [threading.Thread(target=lambda: paths.append(shelf.path())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert AgentFile(tmp_path).path() == paths[0]
    assert (len(set(paths)), len(made)) == (1, 1)
    paths[0].unlink()
    assert shelf.path().exists()  # somebody cleaned up


def test_what_can_not_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that is none, and an installation that lacks a part of it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InfrastructureError, match="can't be written"):
        agent_file(tmp_path / "file")
    monkeypatch.setattr(module, "_imported", lambda sources: ["no-such-distribution"])
    with pytest.raises(InfrastructureError, match="no-such-distribution"):
        agent_file(tmp_path)


def test_what_is_left_when_a_build_dies_is_no_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server never fetches half of it."""

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", dies)
    with pytest.raises(KeyboardInterrupt):
        agent_file(tmp_path)
    assert list(tmp_path.glob("agent-*")) == []


def test_this_python_is_one_of_those_that_run_it() -> None:
    """The control plane's own, at least."""
    assert sys.executable in RUNNING


@pytest.mark.parametrize("python", TOO_OLD)
def test_a_python_that_is_too_old_is_told_so(built: Path, python: str) -> None:
    """In a sentence, not by what breaks first."""
    said = subprocess.run([python, *BARE, built, "--help"], capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert said.stderr.startswith(f"taskflow agent: Python {_oldest()[0]}.{_oldest()[1]} or newer is needed; this is")


@pytest.mark.parametrize("python", RUNNING)
def test_a_bare_python_runs_it(built: Path, tmp_path: Path, python: str) -> None:
    """With nothing installed; ``requests`` has its certificates out of the file, and a namespace package is found."""
    said = subprocess.run([python, *BARE, built, "--help"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert said.returncode == 0, said.stderr
    assert "--root" in said.stdout
    probe = (
        f"import sys; sys.path.insert(0, {str(built)!r})\n"
        "import ssl, requests.certs, flask, markupsafe, taskflow.agent.node\n"
        "ssl.create_default_context(cafile=requests.certs.where())\n"
        "print(sorted({str(m.__file__).split('.pyz')[0] for n, m in list(sys.modules.items())\n"
        "    if n.split('.')[0] in ('requests', 'flask', 'taskflow', 'certifi') and getattr(m, '__file__', None)}))\n"
    )
    ran = subprocess.run([python, *BARE, "-c", probe], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str([str(built).removesuffix(".pyz")])


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """An agent's directory with an order in it."""
    found = tmp_path / "node"
    found.mkdir()
    order = {
        "node_id": "node-1", "slots": 1, "callback_token": "callback-token", "agent_token": "agent-token",
        "heartbeat_interval_s": 10.0,
    }  # fmt: skip
    (found / "order.json").write_text(json.dumps(order))
    yield found


@pytest.mark.parametrize("python", RUNNING)
def test_a_bare_python_serves_from_it(built: Path, root: Path, python: str) -> None:
    """It starts, by a relative path even, listens, answers, and stops when told."""
    shutil.copy(built, root.parent / "agent.pyz")
    command = [python, *BARE, "agent.pyz", "--root", str(root), "--control-plane-url", "http://127.0.0.1:9"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(root.parent), "TMPDIR": str(root.parent)}
    with (root.parent / "log").open("wb") as log:
        agent = subprocess.Popen(command, cwd=root.parent, env=environment, stderr=log)
    try:
        told = root / "agent.json"
        wait_until(lambda: told.exists() or agent.poll() is not None, "the agent listens")
        assert agent.poll() is None, (root.parent / "log").read_text()
        address = json.loads(told.read_text())["address"]
        assert requests.get(f"{address}/health", timeout=10).status_code == 200
    finally:
        agent.terminate()
        agent.wait(20)
    assert list(root.parent.glob("*cacert.pem")) == []  # what it unpacked for itself is gone
