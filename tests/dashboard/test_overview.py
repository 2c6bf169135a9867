"""What an installation looks like as a whole: what needs attention, its use, its settings."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from typing import Any

import pytest
from sqlalchemy import insert, update

from taskflow.db.models import Node, Sweep, SweepBackoff
from tests.dashboard.conftest import See
from tests.web.world import World
from web.dashboard.subjects import FIRST_SETTINGS, SWEEPS

pytestmark = pytest.mark.usefixtures("today")


def test_the_first_page_puts_what_needs_attention_first(world: World, see: See, busy: dict[str, str]) -> None:
    """Before any number: what failed, what is not heard of, and which store is not as it has to be."""
    world.database.write(
        lambda tx: tx.execute(
            update(Node).where(Node.id == busy["node"]).values(unreachable_since=world.clock.now(), name="lost-node")
        )
    )
    page = see("/")
    assert page.headings[1][1] == "Needs attention"
    first = page.text[page.text.index("Needs attention") : page.text.index("Ended in each hour")]
    for said in ("migrations", "lost-node", "unreachable", "failed <script>"):
        assert said in first, said


def test_a_calm_installation_says_so(world: World, see: See, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing failed, every store works, a worker lives and beat starts sweeps in time."""
    checks = {"database": "ok", "worker": "no worker process was seen for 20 s", "beat": "ok"}
    monkeypatch.setattr(world.service.health, "ready", lambda: {"ready": False, "checks": dict(checks)})
    rows = [
        {"name": name, "state": {}, "last_success_at": world.service.now(), "failures": 0, "cursor": ""}
        for name in world.service.health._settings.sweep_intervals()
    ]
    world.database.write(lambda tx: tx.execute(insert(Sweep), rows))
    assert "No worker no worker process was seen for 20 s" in see("/").text
    checks["worker"] = "ok"
    assert "Nothing. Everything works" in see("/").text


def test_a_run_that_failed_needs_attention_and_an_open_one_is_counted(world: World, see: See) -> None:
    """On the first page and on that of errors, as tasks do: with its reason, its link, and where all of them are."""
    world.start(subject="still open")
    assert see("/").all("a", href="/runs?status=running") and "1runs running" in see("/").text
    assert "Nothing failed" in see("/errors").text
    run = world.start(subject="book 7")
    world.end_run(run, {"code": "declined", "message": "the card was declined", "advice": "ask for another"})
    for path in ("/", "/errors"):
        page = see(path)
        assert page.all("a", href=f"/runs/{run['id']}") and page.problems() == [], path
        assert "order book 7" in page.text and "the card was declined" in page.text, path
        assert "Nothing. Everything works" not in page.text and "Nothing failed" not in page.text, path
        assert run["id"] not in see(path, token=world.other_token).html, path
    assert see("/errors").all("button", data_post=f"/api/runs/{run['id']}/rerun")
    assert "1failed in a day" in see("/").text


def test_what_a_sweep_fails_at_is_counted_and_named_to_no_owner(world: World, see: See) -> None:
    """It may be another owner's thing: who runs the installation sees it on the command line."""
    rests: dict[str, Any] = {"sweep": "prune", "failures": 3, "next_at": world.service.now() + 60}
    rests["error"] = {"code": "x", "message": "of ada's node at 10.1.2.3"}
    rows = [{**rests, "item": item} for item in ("task-of-ada-1", "task-of-ada-2")]
    world.database.write(lambda tx: tx.execute(insert(SweepBackoff), rows))
    for token in (world.token, world.other_token):
        page = see("/sweeps", token=token)
        assert "It fails at 2 things: taskflow sweeps names them" in page.text and page.problems() == []
        assert "task-of-ada" not in page.html and "10.1.2.3" not in page.html


def test_a_store_that_fails_is_named_without_the_words_of_its_driver(
    world: World, see: See, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts and users of the stores are nothing for everybody who may look at an owner's tasks."""
    checks = {"database": "connection to db.internal as root refused", "redis": "ok"}
    monkeypatch.setattr(world.service.health, "ready", lambda: {"ready": False, "checks": dict(checks)})
    page = see("/")
    assert "database fails; taskflow doctor says why" in page.text and "Nothing. Everything works" not in page.text
    assert "db.internal" not in page.html


def test_the_settings_show_no_secret_and_where_each_came_from(
    world: World, see: See, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a secret only whether it is set. What the stack set for its processes is nobody's choice."""
    monkeypatch.setenv("TASKFLOW_SET_BY_STACK", "TASKFLOW_DATA_DIR,TASKFLOW_SECRET_KEY")
    page = see("/settings")
    settings = world.service.lookups._settings
    assert settings.secret_key not in page.html and "set, not shown" in page.text
    rows = {row["name"]: row for row in world.service.lookups.settings()}
    assert rows["TASKFLOW_LEASE_S"]["source"] == "environment" and rows["TASKFLOW_LEASE_S"]["value"] == "1"
    assert rows["TASKFLOW_SHARDS"]["source"] == "default"
    assert rows["TASKFLOW_SECRET_KEY"]["source"] == "stack" and "the stack" in page.text
    assert rows["TASKFLOW_DATABASE_URL"]["value"] == "not set"


def test_an_address_is_shown_without_its_password(world: World, see: See, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no secret itself, and may hold one."""
    settings = dataclasses.replace(
        world.service.lookups._settings, public_url="https://ada:s3same-s3same@proxy.example"
    )
    monkeypatch.setattr(world.service.lookups, "_settings", settings)
    page = see("/settings")
    assert "https://ada:***@proxy.example" in page.text and "s3same" not in page.html


def test_flower_is_linked_for_admins_where_somebody_says_where_it_is(
    world: World, see: See, busy: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From settings, a task and a run; nowhere without its address, and to nobody who may not see the installation."""
    paths = ("/settings", f"/tasks/{busy['running']}", f"/runs/{busy['run']}")
    for path in paths:
        assert not see(path).all("a", rel="noreferrer"), path
    settings = dataclasses.replace(world.service.lookups._settings, flower_url="https://flower.example/")
    monkeypatch.setattr(world.service.lookups, "_settings", settings)
    for path in paths:
        (link,) = [found for found in see(path).all("a") if "flower" in found["href"]]
        assert link["href"] == "https://flower.example/tasks" and link["rel"] == "noreferrer", path
    operator = world.service.accounts.create_token(owner="ada", name="operator", role="operator")["token"]
    for path in paths[1:]:
        assert "flower.example" not in see(path, token=operator).html, path


def test_a_setting_is_a_number_that_people_read(see: See) -> None:
    """Thirty days are no 2.592e+06 seconds."""
    page = see("/settings")
    assert "2592000 s" in page.text and "e+0" not in page.text


def test_settings_are_found_by_what_they_are_about(world: World, see: See) -> None:
    """In groups, all of which there are, and by a part of their name or help; those that were set by themselves."""
    names = [row["name"] for row in world.service.lookups.settings()]
    assert [name for name in names if name in FIRST_SETTINGS] == list(FIRST_SETTINGS) and names[0] in FIRST_SETTINGS
    assert len(see("/settings").all("details")) == len(FIRST_SETTINGS)
    page = see("/settings?text=How+Often")
    assert "TASKFLOW_PRUNE_INTERVAL_S" in page.text and "TASKFLOW_SHARDS" not in page.text and page.problems() == []
    page = see("/settings?which=set")
    assert "TASKFLOW_LEASE_S" in page.text and "TASKFLOW_SHARDS" not in page.text
    assert "No setting matches" in see("/settings?text=nonsense").text


def test_each_sweep_says_what_it_does(world: World, see: See) -> None:
    """In a sentence, for who does not know its name."""
    assert set(SWEEPS) == set(world.service.health._settings.sweep_intervals())
    page = see("/sweeps")
    assert page.problems() == [] and all(says in page.text for says in SWEEPS.values())


def test_what_a_month_used_is_a_page(world: World, see: See, monkeypatch: pytest.MonkeyPatch) -> None:
    """By provider and project, with the limits in force; the months beside it are a link away, none after this one."""
    now = datetime(2026, 6, 15, tzinfo=timezone.utc).timestamp()
    monkeypatch.setattr(world.service.usage, "_now", lambda: now)
    place = world.place(world.submit(project="shop"))
    bought = {"price_per_hour": 3.0, "bought_at": now - 1200}
    world.database.write(lambda tx: tx.execute(update(Node).where(Node.id == place.node_id).values(**bought)))
    world.service.usage.set_quota("ada", "shop", {"budget": 12.5})
    page = see("/usage")
    assert page.h1 == "Usage in 2026-06" and "budget a month 12.5" in page.text and page.problems() == []
    assert page.all("a", href="/tasks?project=shop") and "Cost1" in page.text and not page.all("a", rel="next")
    assert page.all("a", rel="prev", href="/usage?month=2026-05")
    page = see("/usage?month=2026-05")
    assert page.all("a", rel="next", href="/usage") and "There was no node in this month" in page.text
    assert see("/usage?month=2026-01").all("a", href="/usage?month=2025-12")
    assert "shop" not in see("/usage", token=world.other_token).text
    assert see("/usage?month=nonsense", status=400).h1 == "This did not work"
