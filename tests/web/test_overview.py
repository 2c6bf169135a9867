"""The first page's numbers and the settings, for programs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from taskflow.settings import table
from tests.web.world import World
from web.api.overview import OverviewSchema, SettingSchema


@pytest.fixture
def overview(world: World) -> Any:
    """The overview as it is answered; the world's clock shows the store's time, by which it says what was within a day."""
    world.clock.advance(world.service.now() - world.clock.now())

    def read(token: str = "") -> Any:
        answer = world.call("GET", "/api/overview", token=token)
        assert answer.status_code == 200, answer.text
        return answer.get_json()

    return read


def test_the_overview_says_what_the_first_page_does(world: World, overview: Any) -> None:
    """Tasks and runs that are open and that failed, hour by hour, and whether the installation works."""
    world.submit()
    world.end(world.submit(title="wrong"), "failed", {"code": "exit", "message": "it ended with 1"})
    world.start(subject="still open")
    found = overview()
    assert set(found) == set(OverviewSchema().fields)
    assert (found["open"]["queued"], found["open_runs"], found["failed_count"]) == (1, {"running": 1, "waiting": 0}, 1)
    assert [(task["title"], task["error"]["code"]) for task in found["failed"]] == [("wrong", "exit")]
    assert (len(found["hours"]), found["hours"][0]["from"]) == (24, found["since"])
    assert sum(hour["failed"] for hour in found["hours"]) == 1
    installation = found["installation"]
    assert set(installation["alarms"]) == {"due", "late"}
    # The schema here is not the migrations': that one fails is said to everybody, how to who runs the installation.
    assert installation["checks"]["redis"] == "ok" and "doctor" in installation["checks"]["migrations"]
    assert (installation["worker"]["state"], installation["worker"]["age_s"]) == ("unknown", None)


def test_the_overview_is_that_of_its_owner(world: World, overview: Any) -> None:
    """Another one's tasks are in none of its numbers."""
    world.end(world.submit(), "failed", {"code": "exit", "message": "it ended with 1"})
    world.start()
    other = overview(world.other_token)
    assert set(other["open"].values()) | set(other["open_runs"].values()) | {other["failed_count"]} == {0}
    assert other["failed"] == other["failed_runs"] == []


def test_settings_are_listed_with_where_each_came_from_and_no_secret(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a secret only whether it is set; an address without its password."""
    settings = dataclasses.replace(
        world.service.lookups._settings, public_url="https://ada:s3same-s3same@proxy.example"
    )
    monkeypatch.setattr(world.service.lookups, "_settings", settings)
    answer = world.call("GET", "/api/settings")
    rows = {row["name"]: row for row in answer.get_json()["settings"]}
    assert set(rows) == {row.env for row in table()}
    assert all(set(row) == set(SettingSchema().fields) for row in rows.values())
    assert (rows["TASKFLOW_LEASE_S"]["source"], rows["TASKFLOW_LEASE_S"]["value"]) == ("environment", "1")
    assert rows["TASKFLOW_SHARDS"]["source"] == "default"
    assert rows["TASKFLOW_SECRET_KEY"]["value"] == "set, not shown"
    assert rows["TASKFLOW_PUBLIC_URL"]["value"] == "https://ada:***@proxy.example"
    assert settings.secret_key not in answer.text and "s3same" not in answer.text
