"""Checks of credentials that are asked for over the API: a worker does them, as the web process has no credentials."""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from taskflow.db.models import OutboxRow, ProviderAccount
from taskflow.db.providers import CHECK_PROVIDER, begin_check
from taskflow.errors import NotFound
from taskflow.nodes.providers.base import AccessRefused
from taskflow.service.providers import CHECK_EVERY_S
from tests.nodes.test_purchases import CLOUD, FILE
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld, worlds_with


@pytest.fixture
def cloud(make_world: MakeWorld, tmp_path: Path) -> World:
    """A world with a cloud."""
    return worlds_with(make_world, tmp_path / "providers.toml", FILE)()


@pytest.fixture
def asked(cloud: World, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], str]]:
    """What the cloud does at each further check, the last one for ever; each is noted in its provider's calls."""
    answers: list[Callable[[], str]] = []

    def check() -> str:
        cloud.provider.calls.append("check")
        return (answers.pop(0) if len(answers) > 1 else answers[0])()

    monkeypatch.setattr(cloud.provider, "check", check)
    return answers


def _works() -> str:
    return "the token is accepted"


def _refused() -> str:
    raise AccessRefused("the token expired")


def _broken() -> str:
    raise TypeError("unexpected argument")


def _check(world: World, name: str = "cloud") -> dict[str, Any]:
    listed = {one["name"]: one["check"] for one in world.service.providers.for_sale(world.caller)}
    found: dict[str, Any] = listed[name]
    return found


def _closed(world: World) -> Any:
    """Why nothing is sold at the cloud now; None: it sells."""
    return next(one["closed"] for one in world.service.providers.for_sale(world.caller) if one["name"] == "cloud")


def _open_rows(world: World) -> int:
    with world.app.database.read() as tx:
        return tx.execute(
            select(func.count()).where(OutboxRow.kind == CHECK_PROVIDER, OutboxRow.done_at.is_(None))
        ).scalar_one()


def test_a_worker_does_the_check_and_everybody_may_read_what_it_found(
    cloud: World, asked: list[Callable[[], str]]
) -> None:
    """Pending until then, with the outcome of the one before; then with its time, in its provider's words."""
    asked[:] = [_works, _refused]
    assert _check(cloud) is None
    (first,) = cloud.service.providers.ask(cloud.caller, "cloud")
    assert (first["check"]["pending"], first["check"]["ok"], first["check"]["at"]) == (True, None, None)
    assert cloud.provider.calls == []  # nobody asked it from the process that was asked
    cloud.app.sweep("outbox")
    found = _check(cloud)
    assert (found["pending"], found["ok"], found["says"], found["code"]) == (False, True, "the token is accepted", None)
    assert found["at"] >= found["asked_at"] == first["check"]["asked_at"]
    cloud.run_for(CHECK_EVERY_S + 1.0)
    assert [one["check"] and one["check"]["ok"] for one in cloud.service.providers.ask(cloud.caller)] == [None, True]
    cloud.app.sweep("outbox")
    refused = _check(cloud)
    assert (refused["ok"], refused["says"], refused["code"]) == (False, "the token expired", "provider_auth")
    assert _check(cloud, "local")["pending"] is False


def test_a_check_that_is_asked_for_often_is_done_once(cloud: World, asked: list[Callable[[], str]]) -> None:
    """Also while no worker runs, and however many providers there are: a provider counts requests."""
    asked[:] = [_works]
    for _ in range(5):
        cloud.service.providers.ask(cloud.caller, "cloud")
    assert _open_rows(cloud) == 1
    cloud.app.sweep("outbox")
    cloud.service.providers.ask(cloud.caller, "cloud")
    cloud.app.sweep("outbox")
    assert cloud.provider.calls == ["check"]
    cloud.run_for(CHECK_EVERY_S + 1.0)
    cloud.service.providers.ask(cloud.caller, "cloud")
    cloud.app.sweep("outbox")
    assert cloud.provider.calls == ["check", "check"]
    with pytest.raises(NotFound, match="local, cloud"):
        cloud.service.providers.ask(cloud.caller, "clud")


def test_two_workers_do_not_check_at_once_and_a_dead_one_is_stood_in_for(
    cloud: World, asked: list[Callable[[], str]]
) -> None:
    """Who comes meanwhile leaves it, and is no failure; after some of the longest requests the first is taken for dead."""
    asked[:] = [_works]
    providers, longest_s = cloud.service.providers, 4 * cloud.settings.provider_timeout_s
    providers.ask(cloud.caller, "cloud")
    now = cloud.service.now()
    assert cloud.app.database.write(lambda tx: begin_check(tx, "cloud", now=now, longest_s=longest_s))
    assert cloud.app.sweep("outbox") == {"done": 1, "failed": 0, "skipped": 0}
    assert (cloud.provider.calls, _check(cloud)["pending"]) == ([], True)
    cloud.run_for(longest_s + 5.0)
    assert (cloud.provider.calls, _check(cloud)["ok"]) == (["check"], True)
    assert _open_rows(cloud) == 0


def test_whatever_a_check_fails_with_is_an_answer(cloud: World, asked: list[Callable[[], str]]) -> None:
    """Somebody waits for it. What a library raises is named by its kind; its words may hold anything."""
    asked[:] = [_broken]
    cloud.service.providers.ask(cloud.caller, "cloud")
    assert cloud.app.sweep("outbox")["failed"] == 0
    found = _check(cloud)
    assert (found["ok"], found["code"]) == (False, "check_failed")
    assert "TypeError" in found["says"] and "argument" not in found["says"]


def test_a_check_on_a_host_is_kept_and_answers_who_asked_over_the_api(
    cloud: World, asked: list[Callable[[], str]]
) -> None:
    """It is not done a second time."""
    asked[:] = [_works]
    cloud.service.providers.ask(cloud.caller, "cloud")
    assert cloud.service.providers.check("cloud")[0]["ok"]
    assert _check(cloud)["pending"] is False
    cloud.app.sweep("outbox")
    assert cloud.provider.calls == ["check"]


def test_a_check_that_was_asked_for_does_not_end_the_rest_of_a_full_account(
    cloud: World, asked: list[Callable[[], str]]
) -> None:
    """Any owner's admin may ask; a credential that works says nothing of room. Who operates the host may know better."""
    asked[:] = [_works, _works]
    rests = {"rests_until": cloud.service.now() + 600, "rests_because": {"code": "quota", "message": "full"}}
    cloud.service.providers.ask(cloud.caller, "cloud")
    of_cloud = update(ProviderAccount).where(ProviderAccount.name == "cloud").values(**rests)
    cloud.app.database.write(methodcaller("execute", of_cloud))
    cloud.app.sweep("outbox")
    assert _check(cloud)["ok"] and _closed(cloud).endswith(": full")
    cloud.service.providers.check("cloud")
    assert _closed(cloud) is None


def test_a_check_that_was_asked_for_lets_those_who_wait_go_on(cloud: World, asked: list[Callable[[], str]]) -> None:
    """As one on a host does: the credential was mended."""
    asked[:] = [_works]
    cloud.provider.refuse = AccessRefused("the token expired")
    cloud.finish(cloud.submit(resources=CLOUD))
    waiting = cloud.submit(resources=CLOUD)
    cloud.at_step(waiting, "waiting_for_capacity")
    cloud.provider.refuse = None
    cloud.service.providers.ask(cloud.caller, "cloud")
    assert cloud.finish(waiting)["status"] == "completed"
