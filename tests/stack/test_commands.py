"""Command lines, and the Procfile that repeats them."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from taskflow.broker import make_celery
from taskflow.settings import Settings
from taskflow.stack import commands
from taskflow.stack.environment import anchored_database_url, child_environment

ROOT = Path(__file__).parents[2]


def test_procfile_and_supervisor_run_the_same_commands() -> None:
    """With default settings a Procfile line is the argv of the function."""
    lines = dict(re.findall(r"^(\w+):.*\bexec (.+)$", (ROOT / "Procfile").read_text(), re.MULTILINE))
    found = {k: shlex.split(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", v).replace("$$", "1")) for k, v in lines.items()}
    settings = Settings()
    expected = {
        "web": commands.web_argv(),
        "worker": commands.worker_argv(),
        "beat": commands.beat_argv(Path("celerybeat-schedule")),
        "flower": commands.flower_argv(settings.flower_port),
        "nodehost": commands.nodehost_argv(),
    }
    assert {k: [sys.executable, *v[1:]] for k, v in found.items()} == expected


def test_the_web_is_as_many_processes_as_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn reads its settings from ours."""
    monkeypatch.delitem(sys.modules, "taskflow.stack.gunicorn_conf", raising=False)  # another test may have read it
    monkeypatch.setenv("TASKFLOW_WEB_PROCESSES", "3")
    assert runpy.run_module("taskflow.stack.gunicorn_conf")["workers"] == 3
    monkeypatch.delenv("TASKFLOW_WEB_PROCESSES")
    assert runpy.run_module("taskflow.stack.gunicorn_conf")["workers"] == Settings().web_processes


@pytest.mark.filterwarnings("ignore:You're running the worker with superuser")
def test_a_worker_is_as_many_processes_as_the_setting_says() -> None:
    """Whoever starts it: the command line, which would count more, says no number."""
    settings = Settings(redis_url="redis://127.0.0.1:1/0", worker_concurrency=3)
    assert not {"-c", "--concurrency", "-l", "--loglevel"} & set(commands.worker_argv())
    assert make_celery(settings).Worker().concurrency == 3


@pytest.mark.parametrize("login", [None, ""])
def test_flower_does_not_start_without_a_login(login: str | None) -> None:
    """It would show every task and stop workers for whoever reaches its port."""
    line = re.search(r"^flower: (.+)$", (ROOT / "Procfile").read_text(), re.MULTILINE)
    assert line is not None
    environ = {"PATH": os.environ["PATH"]} | ({} if login is None else {"FLOWER_BASIC_AUTH": login})
    ended = subprocess.run(
        ["/bin/sh", "-c", line.group(1).replace("exec python", "exec echo started")],
        env=environ, capture_output=True, text=True, timeout=10, check=False,
    )  # fmt: skip
    assert ended.returncode != 0
    assert "started" not in ended.stdout
    assert "FLOWER_BASIC_AUTH" in ended.stderr


def test_children_see_exactly_the_settings_given(tmp_path: Path) -> None:
    """What the parent's environment says is replaced; secrets stay behind when they are not wanted."""
    settings = Settings(data_dir=str(tmp_path), shards=2, secret_key="s", log_json=True, lease_s=3.5)
    environ = {"TASKFLOW_SHARDS": "9", "TASKFLOW_PORT": "1", "TASKFLOW_REDIS_URL": "r", "PATH": "p"}
    child = child_environment(settings, tmp_path / "line", environ)
    assert Settings.from_env(child) == settings
    assert child["PATH"] == "p"
    assert "s" not in child_environment(settings, tmp_path / "line", environ, with_secrets=False).values()


def test_children_know_what_nobody_but_the_stack_has_set(tmp_path: Path) -> None:
    """What is shown of the settings must not say of it that a person chose it."""
    settings = Settings(data_dir=str(tmp_path), port=7, redis_url="redis://r", secret_key="s")
    environ = {"TASKFLOW_PORT": "7", "TASKFLOW_REDIS_URL": ""}
    child = child_environment(settings, tmp_path / "line", environ)
    assert child["TASKFLOW_SET_BY_STACK"] == "TASKFLOW_DATA_DIR,TASKFLOW_REDIS_URL,TASKFLOW_SECRET_KEY"


def test_a_relative_sqlite_url_is_anchored() -> None:
    """Children run elsewhere, and must open the same file."""
    assert anchored_database_url("sqlite:///x.db") == f"sqlite:///{Path('x.db').absolute()}"
    for url in ("sqlite:////a/x.db", "sqlite:///:memory:", "postgresql+psycopg:///x", ""):
        assert anchored_database_url(url) == url


def test_a_relative_pythonpath_means_the_directory_in_which_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stack's processes run in another one: ``.`` would be the data directory there."""
    monkeypatch.chdir(tmp_path)
    given = {"PYTHONPATH": os.pathsep.join((".", "lib", "/abroad", ""))}
    found = child_environment(Settings(), tmp_path / "lifeline", given)["PYTHONPATH"]
    assert found.split(os.pathsep) == [str(tmp_path), str(tmp_path / "lib"), "/abroad", str(tmp_path)]
    assert "PYTHONPATH" not in child_environment(Settings(), tmp_path / "lifeline", {})


@pytest.mark.parametrize("readme", sorted(ROOT.glob("examples/*/README.md")), ids=lambda path: path.parent.name)
def test_the_examples_start_as_their_readmes_say(readme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of the stack, in the data directory, finds the pipelines that were named in the checkout."""
    monkeypatch.chdir(ROOT)
    words = shlex.split(" ".join(re.findall(r"^export (.+)$", readme.read_text(), re.MULTILINE)))
    given = {**os.environ, **dict(word.split("=", 1) for word in words)}
    assert "/" not in given["PYTHONPATH"]
    child = child_environment(Settings.from_env(given), tmp_path / "lifeline", given)
    code = "from taskflow.pipelines import registry; from taskflow.settings import Settings"
    code += "; registry.check(Settings.from_env())"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=child, check=True, timeout=60)
