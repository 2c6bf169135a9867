"""The rules of the house: who may import whom, how long things may get, who writes what."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import house

LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"
MODULES = (
    "addresses", "bootstrap", "broker", "celery", "celery_settings", "cli", "clock", "errors", "file_lock", "files",
    "ids", "logs", "protocol", "settings", "vault",
)  # fmt: skip
PACKAGES = ("agent", "db", "engine", "nodes", "observe", "pipelines", "service", "stack", "sweeps")


def _lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache", "--no-logo"], cwd=directory, capture_output=True, text=True, check=False
    )


@pytest.fixture
def small_house(tmp_path: Path) -> Path:
    """The real contracts over a house with the same rooms and nothing in them."""
    shutil.copy(house.ROOT / ".importlinter", tmp_path)
    for room in ("taskflow", "web", *(f"taskflow/{name}" for name in PACKAGES)):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").touch()
    for name in (*MODULES, "agent/processes", "agent/git", "nodes/providers", "service/tasks"):
        (tmp_path / "taskflow" / f"{name}.py").touch()
    (tmp_path / "web" / "app.py").touch()
    return tmp_path


def test_imports_keep_the_contracts() -> None:
    """The code's imports keep every contract."""
    done = _lint_imports(house.ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_has_a_floor() -> None:
    """Each room of taskflow is named by the contracts, so a new one can't stand outside of them."""
    contracts = (house.ROOT / ".importlinter").read_text(encoding="utf-8")
    rooms = [
        path.stem
        for path in (house.ROOT / "taskflow").iterdir()
        if path.stem != "__init__" and (path.suffix == ".py" or (path / "__init__.py").exists())
    ]
    assert [room for room in rooms if not re.search(rf"\btaskflow\.{room}\b", contracts)] == []


ALLOWED = {
    "web/app.py": "from taskflow import bootstrap, errors\nfrom taskflow.service import tasks\nimport flask\n",
    "taskflow/agent/git.py": "from taskflow import protocol\nimport flask\n",
    "taskflow/stack/__init__.py": "from taskflow import settings\nfrom taskflow.agent import processes\n",
    "taskflow/celery.py": "import celery\nimport kombu\nfrom taskflow import bootstrap\n",
    "taskflow/bootstrap.py": "from taskflow import service, pipelines, sweeps, nodes, db, engine, vault\n",
}


def test_contracts_allow_what_the_design_allows(small_house: Path) -> None:
    """The intended imports pass: a contract that refuses everything would prove nothing."""
    for file, text in ALLOWED.items():
        (small_house / file).write_text(text, encoding="utf-8")
    done = _lint_imports(small_house)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "text", "contract"),
    [
        ("taskflow/engine/__init__.py", "from taskflow import db", "Imports run downwards only"),
        ("taskflow/service/__init__.py", "from taskflow import bootstrap", "Imports run downwards only"),
        ("taskflow/settings.py", "from taskflow import engine", "Imports run downwards only"),
        ("taskflow/nodes/__init__.py", "def f():\n    from taskflow.service import tasks", "Imports run downwards"),
        ("web/app.py", "from taskflow import db", "The web has one door"),
        ("web/app.py", "from taskflow import celery", "The web has one door"),
        ("taskflow/agent/git.py", "from taskflow import errors", "The node agent shares only the wire format"),
        ("taskflow/nodes/__init__.py", "from taskflow.agent import git", "The control plane reaches a node agent"),
        ("taskflow/stack/__init__.py", "from taskflow import service", "The supervisor starts processes"),
        ("taskflow/stack/__init__.py", "from taskflow.agent import git", "The supervisor starts processes"),
        ("taskflow/engine/__init__.py", "import sqlalchemy", "The engine knows no database"),
        ("taskflow/sweeps/__init__.py", "from celery import Celery", "Celery is known in four modules"),
        ("taskflow/engine/__init__.py", "import prometheus_client", "Prometheus and OpenTelemetry are known"),
        ("web/app.py", "import opentelemetry", "Prometheus and OpenTelemetry are known"),
        ("taskflow/service/tasks.py", "import flask", "Flask is known in the web and in the node agent"),
    ],
)  # fmt: skip
def test_a_forbidden_import_is_refused(small_house: Path, file: str, text: str, contract: str) -> None:
    """Each contract notices the import it is there for and names its reason."""
    (small_house / file).write_text(text + "\n", encoding="utf-8")
    done = _lint_imports(small_house)
    assert done.returncode != 0
    said = " ".join(done.stdout.split())
    assert re.search(re.escape(contract) + r"[^.]*?BROKEN", said), said


def test_files_and_functions_stay_readable(tmp_path: Path) -> None:
    """No file passes 500 lines, no function 70; and the check would see one."""
    assert [entry for file in house.python_files() for entry in house.too_long(file)] == []
    long = tmp_path / "long.py"
    long.write_text("def f():\n" + "    x = 1\n" * 70 + "\n" * 430, encoding="utf-8")
    assert len(house.too_long(long)) == 2


def test_public_names_say_what_they_do(tmp_path: Path) -> None:
    """Every public function and class of a module has a docstring."""
    assert [entry for file in house.python_files() for entry in house.undocumented(file)] == []
    silent = tmp_path / "silent.py"
    silent.write_text("class A: ...\n\n\ndef f(): ...\n\n\ndef _g(): ...\n", encoding="utf-8")
    assert len(house.undocumented(silent)) == 2


def test_scripts_open_with_their_keys(tmp_path: Path) -> None:
    """Every Lua script says at its top what its KEYS and ARGV are."""
    scripts = sorted((house.ROOT / "taskflow" / "engine" / "lua").glob("*.lua"))
    assert scripts
    assert [entry for file in scripts for entry in house.lua_without_header(file)] == []
    bare = tmp_path / "bare.lua"
    bare.write_text("-- KEYS[1] run\nreturn 1\n-- ARGV[1] id\n", encoding="utf-8")
    assert len(house.lua_without_header(bare)) == 1


def test_tests_poll_instead_of_sleeping(tmp_path: Path) -> None:
    """A sleep in a test has its reason on its line; waiting for a condition is ``wait_until``."""
    mine = {house.ROOT / "tests" / "support" / "waiting.py", Path(__file__)}
    files = [file for file in house.python_files(rooms=["tests"]) if file not in mine]
    assert [entry for file in files for entry in house.unexplained_sleeps(file)] == []
    sleepy = tmp_path / "sleepy.py"
    sleepy.write_text("time.sleep(1)\ntime.sleep(1)  # because\n", encoding="utf-8")
    assert len(house.unexplained_sleeps(sleepy)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "tx.execute(update(Task).where(Task.id == i).values(status='failed'))",
        "tx.execute(sqlalchemy.update(models.Task).values({'status': 'failed'}))",
        "tx.execute(Task.__table__.update(), {'status': 'failed'})",
        "tx.execute(update(Task.__table__).values(late_result=1, status='failed'))",
        "tx.execute(update(Task).values(**fields))",
        "tx.execute(insert(Task).values(id=i))",
        "tx.add(Task(id=i, status='failed'))",
        "tx.execute(text('UPDATE tasks SET status = 1'))",
        "the_task.status = 'failed'",
    ],
)
def test_a_second_writer_of_task_status_is_seen(statement: str, tmp_path: Path) -> None:
    """The ways in which a second writer could be written are noticed."""
    file = tmp_path / "writer.py"
    file.write_text(statement + "\n", encoding="utf-8")
    assert house.task_writes(file)


@pytest.mark.parametrize(
    "statement",
    [
        "tx.execute(update(Task).where(Task.status == 'failed').values(late_result=1))",
        "tx.execute(update(Run).values(status='failed'))",
        "tx.execute(select(Task.status))",
        "node.status = 'active'",
    ],
)
def test_other_statements_are_no_writers_of_task_status(statement: str, tmp_path: Path) -> None:
    """Writing other columns or other tables, and reading, is nobody's business here."""
    file = tmp_path / "reader.py"
    file.write_text(statement + "\n", encoding="utf-8")
    assert house.task_writes(file) == []


def test_task_status_has_one_writer() -> None:
    """Only ``taskflow/db/tasks.py`` can write ``tasks.status``, and there only ``transition`` changes one."""
    writer = house.ROOT / "taskflow" / "db" / "tasks.py"
    migrations = house.ROOT / "taskflow" / "db" / "migrations"
    files = [file for file in house.python_files() if file != writer and migrations not in file.parents]
    assert house.task_writes(writer)
    assert [entry for file in files for entry in house.task_writes(file)] == []
