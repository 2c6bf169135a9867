"""What Prometheus is given: each metric moves when its thing happens, no label is an id, and no count is ever lost."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from flask.testing import FlaskClient
from sqlalchemy import insert, update

from taskflow.db.models import Node, OutboxRow, ProviderAccount, SweepBackoff
from taskflow.engine.meter import SILENT, outcome_name
from taskflow.engine.outcomes import Advance, AwaitSignal, Done, Snooze
from taskflow.engine.store import RunRow
from taskflow.errors import Gone, PermanentError, TransientError
from taskflow.observe import files
from taskflow.observe.counting import Counting, counting
from taskflow.observe.files import Identity
from taskflow.observe.table import BY_NAME, METRICS
from taskflow.protocol import AGENT_FILE
from tests.observe.conftest import Counted
from tests.support import metrics_docs
from tests.support.world import World
from web import create_app

ROW = RunRow("run-1", "agent_task", 1, "task", "t-1", 1, "o-1", "running", 1, 0.0, 0.0)  # type: ignore[arg-type]
_ID = re.compile(r"(task|run|node|owner|ws|session|token)-[0-9a-z]{20,}|\b(ada|bob)\b")


def _client(world: World) -> FlaskClient:
    world.service.meter = world.meter
    return create_app(world.service, world.settings).test_client()


def _walk(world: World) -> None:
    world.finish(world.submit())


def _take_over(world: World) -> None:
    task = world.submit()
    world.crash_at("perform:running")
    world.finish(task)


def _lose_control_state(world: World) -> None:
    world.at_step(world.submit(), "workspace_ready")
    world.redis.flushall()
    world.app.sweep("rescue")


def _report(world: World) -> None:
    world.at_step(world.submit(), "running")


def _oversleep(world: World) -> None:
    world.submit()
    world.travel.shift(200)


def _write(world: World, *statements: object) -> None:
    world.app.database.write(lambda tx: [tx.execute(statement) for statement in statements])  # type: ignore[call-overload]


def _lose_sight(world: World) -> None:
    _report(world)
    _write(world, update(Node).values(unreachable_since=1.0))


def _rest(world: World) -> None:
    _write(world, update(ProviderAccount).values(rests_until=9e9))


def _block(world: World) -> None:
    _write(world, update(ProviderAccount).values(blocked={"code": "x", "message": "x"}))


def _fail_item(world: World) -> None:
    _write(world, insert(SweepBackoff).values(sweep="outbox", item="x", failures=1, next_at=9e9, error={}))


def _promise(world: World) -> None:
    values = {"kind": "x", "payload": {}, "created_at": 1.0, "next_at": 9e9, "attempts": 3}
    _write(world, insert(OutboxRow).values(**values))


def _ask(world: World) -> None:
    assert _client(world).get("/healthz").status_code == 200


#: metric -> what makes it move. What stands still by its nature is only read.
MOVES: dict[str, Callable[[World], object]] = {
    **dict.fromkeys(
        ("taskflow_steps_total", "taskflow_step_seconds", "taskflow_alarm_late_seconds", "taskflow_runs_ended_total",
         "taskflow_runs_submitted_total"),
        _walk,
    ),
    **dict.fromkeys(
        ("taskflow_callbacks_total", "taskflow_tasks", "taskflow_runs_open", "taskflow_nodes"), _report
    ),
    "taskflow_leases_taken_over_total": _take_over,
    "taskflow_rescued_total": _lose_control_state,
    **dict.fromkeys(
        ("taskflow_sweeps_total", "taskflow_sweep_seconds", "taskflow_sweep_last_success_timestamp_seconds"),
        lambda world: world.app.sweep("rescue"),
    ),
    **dict.fromkeys(("taskflow_http_requests_total", "taskflow_http_request_seconds"), _ask),
    "taskflow_alarms_overdue": _oversleep,
    "taskflow_queue_depth": lambda world: setattr(world.broker, "backlog", lambda: 3),
    "taskflow_nodes_unreachable": _lose_sight,
    "taskflow_provider_resting": _rest,
    "taskflow_provider_blocked": _block,
    "taskflow_sweep_failing_items": _fail_item,
    **dict.fromkeys(("taskflow_outbox_open", "taskflow_outbox_failing"), _promise),
}  # fmt: skip
STANDING = {
    "taskflow_store_up": 3, "taskflow_processes": 1, "taskflow_sweep_interval_seconds": 1,
    "taskflow_disk_free_bytes": 1, "taskflow_disk_size_bytes": 1,
}  # fmt: skip


def test_every_metric_is_moved_or_stands_still() -> None:
    """A metric that is added says here what makes it move."""
    assert set(MOVES) | set(STANDING) == set(BY_NAME)


@pytest.mark.parametrize("name", MOVES)
def test_a_metric_moves_when_its_thing_happens(counted: Counted, name: str) -> None:
    """And is not moved by being looked at."""
    before = counted.value(name)
    assert counted.value(name) == before
    MOVES[name](counted.world)
    assert counted.value(name) > before


@pytest.mark.parametrize(("name", "least"), STANDING.items())
def test_what_stands_still_is_there(counted: Counted, name: str, least: float) -> None:
    """Facts of the installation."""
    assert counted.value(name) >= least


def test_labels_are_few_and_name_nobody(counted: Counted) -> None:
    """After tasks that end in every way: each sample is of the table, with its labels, and none is an id or an owner."""
    world = counted.world
    client = _client(world)
    done, cancelled, failed = world.submit(), world.submit(), world.submit(time_limit_s=1.0)
    world.at_step(cancelled, "running")
    world.cancel(cancelled["id"])
    world.finish(done, cancelled, failed)
    for path in (f"/api/tasks/{done['id']}", "/no/such/path", AGENT_FILE, "/callbacks/nodes/node-1/heartbeat"):
        client.get(path)
    client.open("/healthz", method="BREW")
    for sample in counted.samples():
        name = re.sub(r"_(bucket|sum|count)$", "", sample.name)
        metric = BY_NAME[sample.name if sample.name in BY_NAME else name]
        assert set(sample.labels) - {"le"} == set(metric.labels), sample
        assert not [value for value in sample.labels.values() if _ID.search(value)], sample
    assert counted.value("taskflow_runs_ended_total", outcome="cancelled") == 1
    assert counted.value("taskflow_http_requests_total", route="/api/tasks/<task_id>", status="401") == 1
    assert counted.value("taskflow_http_requests_total", route="none", status="404") == 1
    assert counted.value("taskflow_http_requests_total", method="other") == 1


def test_refused_reports_say_why(counted: Counted) -> None:
    """A callback after the end is one that was refused as gone."""
    world = counted.world
    task = world.submit()
    world.finish(task)
    world.dissolve()
    node_id = world.node().id
    caller = world.service.accounts.authenticate(world.app.tools.vault.derive_token("node", node_id), "node")
    with pytest.raises(Gone):
        world.service.callbacks.node_heartbeat(caller, node_id, {"ready": True})
    assert counted.value("taskflow_callbacks_total", kind="heartbeat", outcome="gone") == 1


def test_the_counts_of_dead_processes_stay_and_their_files_go(counted: Counted) -> None:
    """Workers are replaced all the time: what they counted is kept in one place, once."""
    directory = counted.world.settings.data_path / "metrics"
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            meter = Counting(Identity(directory, "worker"))
            meter.step_begins(ROW, 1)("advanced")
            os._exit(0)
        os.waitpid(pid, 0)
    for _ in range(2):  # the second scrape finds them folded
        assert counted.value("taskflow_steps_total", step="running") == 3
        assert counted.value("taskflow_step_seconds", step="running") == 3
        assert counted.value("taskflow_processes", role="worker") == 1
    assert len(list(directory.glob("*.db"))) == 4  # this process' two, and the two of the dead
    assert len(list(directory.glob("*.alive"))) == 1


def test_a_process_that_begins_while_another_reads_goes_on_counting(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are younger than the reader's list of the living: they are not those of a dead process."""
    directory = counted.world.settings.data_path / "metrics"
    asked, began = files._living, Identity(directory, "worker")

    def asked_just_before(where: Path) -> dict[str, str]:
        living = asked(where)
        began()
        return living

    monkeypatch.setattr(files, "_living", asked_just_before)
    counted.value("taskflow_processes", role="worker")
    assert len(list(directory.glob(f"*_{began()}.db"))) == 2


def test_a_store_that_is_away_is_said_and_the_rest_is_there(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is woken by the fault needs the numbers most of all."""

    def away() -> float:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(counted.world.app.control, "now", away)
    monkeypatch.setattr(counted.world.service.metrics._control, "now", away)
    assert counted.values("taskflow_store_up") == {"database": 1.0, "redis": 0.0, "broker": 0.0}
    assert counted.values("taskflow_alarms_overdue") == counted.values("taskflow_queue_depth") == {}
    assert counted.values("taskflow_sweep_interval_seconds")


def test_a_data_directory_that_is_away_hides_nothing_else(
    counted: Counted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A disk that was taken away is a fault as well, of which the rest has to be told."""
    gone = dataclasses.replace(counted.world.settings, data_dir=str(tmp_path / "gone"))
    monkeypatch.setattr(counted.world.service.metrics, "_settings", gone)
    assert counted.values("taskflow_disk_free_bytes") == counted.values("taskflow_disk_size_bytes") == {}
    assert counted.values("taskflow_store_up") == {"database": 1.0, "redis": 1.0, "broker": 1.0}


def test_a_redis_that_hangs_is_waited_for_once(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape has ten seconds, and each wait may take five: the time of the rest is the host's then."""
    waited: list[str] = []

    def hangs(*_: object, **__: object) -> float:
        waited.append("five seconds")
        raise redis.TimeoutError("timed out")

    counted.world.travel.shift(3600.0)  # whoever remembers the time of Redis would ask for it anew
    monkeypatch.setattr(counted.world.redis, "execute_command", hangs)
    monkeypatch.setattr(counted.world.app.control, "now", hangs)
    assert counted.values("taskflow_store_up") == {"database": 1.0, "redis": 0.0, "broker": 0.0}
    assert len(waited) == 1


def test_a_broker_of_its_own_is_asked_itself(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits there is not looked for in the Redis of the control state; one that is away hides nothing else."""
    world = counted.world
    metrics = world.service.metrics
    monkeypatch.setattr(metrics, "_settings", dataclasses.replace(world.settings, broker_url="amqp://rabbit.example"))
    monkeypatch.setattr(metrics, "_depths", lambda: {"alarm": 7, "sweep": 2})
    assert counted.values("taskflow_queue_depth") == {"alarm": 7.0, "sweep": 2.0}

    def away() -> dict[str, int]:
        raise OSError("nobody listens there")

    monkeypatch.setattr(metrics, "_depths", away)
    assert counted.values("taskflow_store_up") == {"database": 1.0, "redis": 1.0, "broker": 0.0}
    assert counted.values("taskflow_queue_depth") == {} and counted.values("taskflow_alarms_overdue")


def test_a_process_that_can_make_no_files_works_on_uncounted(tmp_path: Path) -> None:
    """A full disk must not keep a worker from its work."""
    taken = tmp_path / "metrics"
    taken.write_text("a file where the directory should be")
    assert counting(taken, "worker") is SILENT


def test_what_can_not_be_counted_fails_no_work(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that can't grow any more is no reason for a task to fail."""

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    for metric in ("_steps", "_late", "_runs_ended"):
        monkeypatch.setattr(counted.world.meter, metric, SimpleNamespace(labels=full, observe=full))
    task = counted.world.finish(counted.world.submit())
    assert task["status"] == "completed"
    assert counted.value("taskflow_runs_submitted_total") == 1


def test_the_metrics_have_a_token_of_their_own(counted: Counted) -> None:
    """Nobody reads them without it, also no user; a setting replaces the installation's own."""
    world = counted.world
    client, own = _client(world), world.service.metrics.token()
    for token, status in ((None, 401), (world.tokens["ada"], 401), ("", 401), (own, 200)):
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        answer = client.get("/metrics", headers=headers)
        assert answer.status_code == status
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"taskflow_steps_total" in answer.data or b"taskflow_tasks" in answer.data
    assert own not in answer.text


def test_a_setting_is_the_token(make_world: Callable[..., World]) -> None:
    """Then the installation's own does no more."""
    world = make_world(metrics_token="a-token-of-ours", metrics=False)
    own = world.app.tools.vault.derive_token("metrics", "installation")
    client = _client(world)
    for token, status in ((own, 401), ("a-token-of-ours", 200)):
        assert client.get("/metrics", headers={"Authorization": f"Bearer {token}"}).status_code == status


@pytest.mark.parametrize(
    ("module", "unknown"),
    [
        ("taskflow.engine.runner", "prometheus_client"),
        ("taskflow.engine.runner", "taskflow.observe"),
        ("taskflow.agent", "prometheus_client"),
        ("taskflow.bootstrap", "taskflow.observe.tracing"),
        ("taskflow.celery", "taskflow.observe.tracing"),
        ("web", "taskflow.observe.tracing"),
    ],
)
def test_who_does_not_count_or_trace_loads_nothing_for_it(module: str, unknown: str) -> None:
    """The engine knows nobody who looks on; without traces nothing of them is imported. (Redis' client may do it.)"""
    code = f"import sys, {module}; print({unknown!r} in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_a_decision_is_one_of_a_few_words() -> None:
    """What the label ``outcome`` of a step may be, as its help says."""
    words = {
        outcome_name(Advance("x"), retried=False), outcome_name(Advance("x", error={"code": "c"}), retried=False),
        outcome_name(Snooze(1.0), retried=False), outcome_name(AwaitSignal("x"), retried=False),
        outcome_name(Done(), retried=False), outcome_name(TransientError("x"), retried=True),
        outcome_name(PermanentError("x"), retried=False), "superseded", "broken_off",
    }  # fmt: skip
    assert words == set(BY_NAME["taskflow_steps_total"].help.partition(": ")[2].split(", "))


def test_reference_page_is_the_table() -> None:
    """docs/reference/metrics.md holds every metric and is what the generator writes."""
    page = metrics_docs.PAGE.read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(taskflow_\w+)`", page, flags=re.MULTILINE)) == sorted(m.name for m in METRICS)
    assert page == metrics_docs.render(), "stale: run python -m tests.support.metrics_docs"
