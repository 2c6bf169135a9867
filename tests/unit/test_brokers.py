"""Where Redis and the broker are: what each form of URL becomes."""

from __future__ import annotations

import dataclasses
import traceback
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from redis.sentinel import SentinelConnectionPool
from structlog.testing import capture_logs

from taskflow.broker import CeleryPublisher, make_celery, set_queues
from taskflow.celery_settings import broker_settings
from taskflow.engine.alarms import Pump, Ringer
from taskflow.engine.control import Alarm, Pumped
from taskflow.errors import UsageError
from taskflow.ids import RunId
from taskflow.redis_url import SentinelUrl, connect, parse_sentinel
from taskflow.settings import Settings

REDIS = Settings(redis_url="redis://:secret@redis.example:6379/2")
VARIABLE = "TASKFLOW_REDIS_URL"


def with_broker(url: str, **changes: Any) -> dict[str, Any]:
    """The broker's part of Celery's settings."""
    return broker_settings(dataclasses.replace(REDIS, broker_url=url, **changes))


def test_without_a_broker_of_its_own_redis_carries_the_hints() -> None:
    """Its transport is told what only it understands."""
    found = with_broker("")
    assert found["broker_url"] == REDIS.redis_url
    assert (found["worker_disable_prefetch"], found["broker_transport_options"]["ack_emulation"]) == (True, False)
    assert with_broker("redis://other/0")["broker_url"] == "redis://other/0"


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_rabbitmq_is_told_nothing_of_redis_and_nobody_waits_for_it(scheme: str) -> None:
    """A publisher that waited for a broker that is away would hold a request, a turn, or the pump."""
    found = with_broker(f"{scheme}://u:p@rabbit.example/taskflow")
    assert "worker_disable_prefetch" not in found and "ack_emulation" not in found["broker_transport_options"]
    assert found["broker_transport_options"]["max_retries"] == 0
    app = make_celery(dataclasses.replace(REDIS, broker_url=f"{scheme}://u:p@rabbit.example/taskflow"))
    connection = app.connection_for_write()
    assert (connection.transport.driver_type, connection.virtual_host) == ("amqp", "taskflow")


def test_a_broker_that_is_none_is_refused_with_the_variable_and_without_the_url() -> None:
    """Celery would take any name for a module."""
    with pytest.raises(UsageError) as caught:
        with_broker("http://user:secret@rabbit.example")
    assert set(caught.value.fields) == {"TASKFLOW_BROKER_URL"} and "secret" not in str(caught.value)
    with pytest.raises(UsageError, match="TASKFLOW_BROKER_URL"):
        CeleryPublisher(dataclasses.replace(REDIS, broker_url="http://rabbit.example"))


def test_sentinels_are_named_by_one_url() -> None:
    """Ports may be left out; user and password are those of the servers."""
    found = parse_sentinel("sentinel://u:p%40ss@s1,s2:26380,[::1]:26381/main/3", VARIABLE)
    assert found == SentinelUrl((("s1", 26379), ("s2", 26380), ("::1", 26381)), "main", 3, "u", "p@ss")
    assert "p@ss" not in repr(found)
    assert parse_sentinel("redis://s1/0", VARIABLE) is None
    client = connect("sentinel://u:p%40ss@s1/main/3", VARIABLE, socket_timeout=2.0)
    pool = client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "main"
    options = pool.connection_kwargs
    assert (options["db"], options["username"], options["password"], options["socket_timeout"]) == (3, "u", "p@ss", 2.0)


def test_celery_finds_the_same_master() -> None:
    """In its own form: a URL for each sentinel, and the master's name as an option."""
    found = with_broker("", redis_url="sentinel://u:p%40ss@s1,s2:26380/main/3")
    assert found["broker_url"] == "sentinel://u:p%40ss@s1:26379/3;sentinel://u:p%40ss@s2:26380/3"
    assert found["broker_transport_options"]["master_name"] == "main"
    connection = make_celery(dataclasses.replace(REDIS, redis_url="sentinel://:pw@s1,s2/main/3")).connection_for_write()
    assert connection.alt == ["sentinel://:pw@s1:26379/3", "sentinel://:pw@s2:26379/3"]


@pytest.mark.parametrize(
    "url", ["sentinel://s1", "sentinel:///main", "sentinel://s1,/main", "sentinel://s1:x/main", "sentinel://s1/main/x",
            "sentinel://s1/main/-1", "sentinel://s1/main?x=1"],
)  # fmt: skip
def test_a_url_of_sentinels_that_is_none_is_refused_with_the_variable(url: str) -> None:
    """It says what the form is, and not the URL, which may hold a password."""
    with pytest.raises(UsageError, match=VARIABLE) as caught:
        parse_sentinel(url.replace("sentinel://", "sentinel://u:secret@"), VARIABLE)
    assert set(caught.value.fields) == {VARIABLE} and "sentinel://" in caught.value.fields[VARIABLE]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("queues", [("alarm", "sweep"), ("ours.alarm", "ours.sweep")])
def test_what_waits_is_counted_where_it_waits(queues: tuple[str, str]) -> None:
    """In the broker, whichever it is, and in the queues of an application that taskflow was installed on."""
    app = Celery(broker="memory://", set_as_current=False)
    if queues[0] != "alarm":
        set_queues(app, *queues)
    publisher = CeleryPublisher(REDIS, app)
    assert publisher.depths() == {"alarm": 0, "sweep": 0}
    publisher.publish(Alarm(RunId("run-1"), "g", 0.0, "agent_task.running"))
    for _ in range(2):
        app.send_task("taskflow.sweep.rescue", queue=queues[1])
    assert publisher.depths() == {"alarm": 1, "sweep": 2}
    assert publisher.backlog() == 1


@pytest.mark.parametrize(
    "url", ["u:s3cret@host:6379", "redis://:s3cret/word@host:6379/0", "redis://:s3cret#word@host/0",
            "redis://:s3cret?word@host/0", "redis://:pw@host:s3cret/0", "http://u:s3cret@host/0"],
)  # fmt: skip
def test_what_is_no_url_is_refused_with_the_variable_and_no_part_of_a_password(url: str) -> None:
    """Where letters that end a host stand in a password, its beginning looks like a port, and would be said back."""
    for refused in (
        lambda: connect(url, VARIABLE), lambda: broker_settings(dataclasses.replace(REDIS, redis_url=url)),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=VARIABLE) as caught:
            refused()
        assert set(caught.value.fields) == {VARIABLE}
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_several_brokers_are_named_with_a_semicolon_between_them() -> None:
    """As Celery takes them."""
    url = "amqp://u:p@one:5672;amqp://u:p@two"
    assert with_broker(url)["broker_url"] == url


class AwayBroker:
    """A publisher whose broker may be away."""

    away = True

    def publish(self, alarm: Alarm) -> None:
        """Never called: nothing is due."""
        raise AssertionError(alarm)

    def backlog(self) -> int:
        """As the real one: raises what the transport raises."""
        if self.away:
            raise ConnectionRefusedError("away")
        return 0


def test_a_broker_that_is_away_is_said_once_and_the_control_state_is_watched_all_the_same() -> None:
    """A pump looks four times a second: it claims nothing meanwhile, and does not fill the log."""
    broker = AwayBroker()
    asked: list[int] = []
    ticks: list[list[Pumped]] = []

    def pump(limit: int) -> list[Pumped]:
        asked.append(limit)
        return []

    control: Any = SimpleNamespace(pump=pump)
    made = Pump(control, Ringer(control, broker), broker, interval_s=1, batch=10, backlog_max=8, on_tick=ticks.append)
    with capture_logs() as lines:
        for broker.away in (True, True, False, True):
            made.tick()
    assert [line["event"] for line in lines] == ["backlog_unknown", "backlog_unknown"]
    assert asked == [0, 0, 8, 0] and len(ticks) == 4
