"""taskflow on a Celery application of somebody else's: real workers, a real Valkey, both kinds of work side by side."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import Celery, signals

from taskflow.broker import CeleryPublisher
from taskflow.db import migrate
from taskflow.db.session import make_engine
from taskflow.embedding import Installed, install
from taskflow.engine.control import Alarm
from taskflow.errors import UsageError
from taskflow.ids import RunId
from taskflow.settings import Settings
from tests.conftest import ValkeyDatabase
from tests.support.celery_processes import Child, celery, clean_environ, worker, worker_arguments
from tests.support.waiting import wait_until

APP = "examples.existing_app.app"


@pytest.fixture
def environ(valkey: ValkeyDatabase, tmp_path: Path) -> dict[str, str]:
    """Of the application and of taskflow: one Redis, a database with the schema."""
    url = f"sqlite:///{tmp_path / 'taskflow.db'}"
    engine = make_engine(url)
    migrate.upgrade(engine)
    engine.dispose()
    return clean_environ(
        BOOKSHOP_BROKER=valkey.url, BOOKSHOP_MAILS=str(tmp_path / "mails"), TASKFLOW_REDIS_URL=valkey.url,
        TASKFLOW_DATABASE_URL=url, TASKFLOW_DATA_DIR=str(tmp_path / "data"), TASKFLOW_SECRET_KEY="only-for-tests-" * 3,
        TASKFLOW_PIPELINES="examples.existing_app.pipeline:REMINDER", PYTHONPATH=str(Path.cwd()),
    )  # fmt: skip


@pytest.fixture
def bookshop(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    """taskflow as the application's own code reaches it, in this process."""
    for name in [name for name in os.environ if name.startswith("TASKFLOW_")]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    app = Celery("bookshop", broker=environ["BOOKSHOP_BROKER"], set_as_current=False)
    installed = install(app)
    yield installed
    installed.close()
    app.close()


@pytest.mark.integration
@pytest.mark.parametrize("workers", ["one_for_all", "one_for_each"])
def test_their_tasks_and_our_runs_share_workers_and_survive_a_kill(
    environ: dict[str, str], bookshop: Installed, tmp_path: Path, workers: str
) -> None:
    """A worker without -Q takes both; workers may also be told apart. One that is killed loses no run."""
    mails, runs, caller = tmp_path / "mails", bookshop.service.runs, bookshop.acting_for()
    queues = "bookshop,taskflow.alarm,taskflow.sweep" if workers == "one_for_each" else ""
    log = tmp_path / "worker.log"

    def sent() -> list[str]:
        return sorted(file.read_text().splitlines()[1] for file in mails.glob("*.txt"))

    def start(given: dict[str, object]) -> str:
        return str(runs.start(caller, "reminder", given)[0]["id"])

    def status(run_id: str) -> str:
        return str(runs.get(caller, run_id)["status"])

    with _worker(environ, log, queues) as child:
        run_id = start({"to": "ada@example.com", "text": "the book", "wait_s": 3600})
        bookshop.celery.send_task("bookshop.send_mail", ("own", "bob@example.com", "hello"), queue="bookshop")
        wait_until(lambda: sent() == ["hello", "the book"], f"both mails are sent; see {log}")
        wait_until(lambda: status(run_id) == "waiting", "the run waits for an answer")
        child.kill()
    second = start({"to": "eve@example.com", "text": "the bill", "wait_s": 0.5})
    runs.signal(caller, run_id, "answered", {})
    with _worker(environ, log, queues):
        wait_until(lambda: status(run_id) == "completed", f"the answer is heard; see {log}")
        wait_until(lambda: status(second) == "completed", f"the time is over; see {log}")
        wait_until(lambda: "Again: the bill" in sent(), "the second mail is sent")
    assert runs.get(caller, run_id)["result"] == {"answered": True}
    assert runs.get(caller, second)["result"] == {"answered": False}


def _worker(environ: dict[str, str], log: Path, queues: str) -> AbstractContextManager[Child]:
    if queues:
        return worker(APP, "bookshop", queues, environ=environ, log=log)
    arguments = [one for one in worker_arguments("bookshop", "-") if one not in ("-Q", "-")]
    return celery(APP, *arguments, environ=environ, log=log)


@pytest.mark.integration
def test_a_worker_without_processes_does_not_take_alarms(environ: dict[str, str]) -> None:
    """It says why and ends, unless it is given other queues."""
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", APP, "worker", "-P", "threads"],
        env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "taskflow's alarms need the prefork pool" in done.stdout + done.stderr
    assert done.returncode != 0


def _app(**conf: object) -> Celery:
    app = Celery("theirs", set_as_current=False)
    app.conf.update(**conf)
    return app


SETTINGS = Settings.from_env({})


@pytest.mark.parametrize(
    ("conf", "named"),
    [
        ({"task_always_eager": True}, "task_always_eager"),
        ({"accept_content": ["pickle"]}, "accept_content"),
        ({"worker_pool": "gevent"}, "worker_pool"),
        ({"worker_pool": "celery.concurrency.thread:TaskPool"}, "worker_pool"),
        ({"task_create_missing_queues": False}, "task_queues"),
    ],
)
def test_what_would_lose_alarms_is_refused_by_name(conf: dict[str, object], named: str) -> None:
    """And nothing was added to the application."""
    app = _app(**conf)
    with pytest.raises(UsageError) as refused:
        install(app, SETTINGS)
    assert set(refused.value.fields) == {named}
    assert "taskflow.alarm" not in app.tasks


def test_their_configuration_stays_theirs() -> None:
    """Of their settings only the schedule has more in it; our tasks don't take their defaults."""
    theirs = {
        "task_acks_late": True, "task_serializer": "yaml", "accept_content": ["yaml", "json"], "task_time_limit": 5,
        "task_default_queue": "shop", "task_default_rate_limit": "1/h", "task_ignore_result": False,
        "broker_transport_options": {"visibility_timeout": 30}, "task_routes": {"shop.*": {"queue": "slow"}},
        "beat_schedule": {"rescue": {"task": "shop.rescue", "schedule": 5.0}},
        "task_annotations": {"*": {"rate_limit": "1/m", "acks_late": True, "time_limit": 5}},
    }  # fmt: skip
    app = _app(**theirs)
    before = {name: app.conf[name] for name in theirs if name != "beat_schedule"}
    install(app, SETTINGS)
    assert {name: app.conf[name] for name in before} == before
    assert app.conf.beat_schedule["rescue"]["task"] == "shop.rescue"
    assert app.conf.beat_schedule["taskflow.rescue"]["options"]["queue"] == "taskflow.sweep"
    alarm = app.tasks["taskflow.alarm"]
    assert (alarm.acks_late, alarm.serializer, alarm.ignore_result, alarm.rate_limit) == (False, "json", True, 0)
    assert alarm.time_limit > 3600
    with pytest.raises(UsageError, match="already"):
        install(app, SETTINGS)


@pytest.mark.parametrize("kind", ["direct", "topic", "fanout"])
def test_a_message_of_theirs_and_one_of_ours_are_in_one_queue_each(kind: str) -> None:
    """Whatever their default exchange is: nothing of theirs is copied into our queues, and run twice."""
    app = _app(
        broker_url="memory://", task_default_queue="shop", task_default_exchange=f"shop.{kind}",
        task_default_exchange_type=kind, task_default_routing_key="shop.task",
    )  # fmt: skip
    install(app, SETTINGS)
    worker = SimpleNamespace(app=app, pool_cls=type("TaskPool", (), {"__module__": "celery.concurrency.prefork"}))
    signals.celeryd_after_setup.send(sender="worker", instance=worker)
    with app.connection() as connection:
        channel = connection.default_channel
        for queue in app.amqp.queues.consume_from.values():
            queue(channel).declare()
        app.send_task("shop.sell")
        CeleryPublisher(SETTINGS, app).publish(Alarm(RunId("run-1"), "", 0.0, "order.pay"))
        waiting = {name: channel._size(name) for name in app.amqp.queues.consume_from}
        for name in waiting:
            channel._purge(name)
    assert waiting == {"shop": 1, "taskflow.alarm": 1, "taskflow.sweep": 0}


def test_the_web_process_publishes_on_the_application_that_the_setting_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that taskflow was not installed on is refused by name."""
    monkeypatch.syspath_prepend(tmp_path)
    theirs = f"theirs_{tmp_path.name}"
    (tmp_path / f"{theirs}.py").write_text(
        "from celery import Celery\nfrom taskflow.embedding import install\nfrom taskflow.settings import Settings\n"
        "app = Celery('theirs', broker='memory://', set_as_current=False)\napp.conf.timezone = 'Europe/Paris'\n"
        "bare = Celery('bare', set_as_current=False)\n"
        "install(app, Settings())\n"
    )
    publisher = CeleryPublisher(dataclasses.replace(SETTINGS, celery_app=f"{theirs}:app"))
    publisher.publish(Alarm(RunId("run-1"), "", 0.0, "order.pay"))
    assert publisher.backlog() == 1
    assert publisher.application().conf["timezone"] == "Europe/Paris"  # which is what doctor judges
    for name, says in ((f"{theirs}:bare", "no Celery application"), ("missing_module:app", "ModuleNotFoundError")):
        with pytest.raises(UsageError, match="TASKFLOW_CELERY_APP") as refused:
            CeleryPublisher(dataclasses.replace(SETTINGS, celery_app=name))
        assert says in refused.value.message
