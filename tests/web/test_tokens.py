"""What an admin does with the tokens of their owner, and when a token was used last."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event, select

from taskflow.db.models import Token
from tests.web.world import World


def _make(world: World, **spec: Any) -> dict[str, Any]:
    answer = world.call("POST", "/api/tokens", {"name": "ci", "role": "operator", **spec})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.get_json()
    assert answer.headers["Location"] == f"/api/tokens/{made['id']}"
    return made


def _listed(world: World, token: str = "") -> dict[str, dict[str, Any]]:
    rows = world.call("GET", "/api/tokens", token=token).get_json()["tokens"]
    return {row["id"]: row for row in rows}


def test_a_token_is_shown_once_and_acts_for_the_same_owner(world: World) -> None:
    """The list never shows it; it has the role that was asked for and sees the owner's tasks."""
    task, made = world.submit(), _make(world)
    assert world.call("GET", f"/api/tasks/{task['id']}", token=made["token"]).status_code == 200
    assert (made["owner"], made["role"], made["expires_at"]) == ("ada", "operator", None)
    listed = world.call("GET", "/api/tokens")
    assert made["token"] not in listed.text
    assert {row["name"] for row in listed.get_json()["tokens"]} == {"cli", "ci"}


def test_tokens_come_in_pages(world: World) -> None:
    """Those that ended stay in the list, so it grows: neither skipped nor repeated while others are made."""
    ids = [row["id"] for row in world.call("GET", "/api/tokens").get_json()["tokens"]]
    ids += [_make(world)["id"] for _ in range(4)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while len(seen) < 20:
        page = world.call("GET", "/api/tokens", query_string={"limit": 2, **cursor}).get_json()
        assert len(page["tokens"]) <= 2
        seen += [row["id"] for row in page["tokens"]]
        if len(seen) == 2:
            ids.append(_make(world)["id"])
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == sorted(ids)
    for wrong in ("a b", "a~b", "x" * 81):
        answer = world.call("GET", "/api/tokens", query_string={"cursor": wrong})
        assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (400, ["cursor"]), wrong


def test_a_token_ends_when_it_expires_or_is_revoked(world: World) -> None:
    """Revoking counts from the next request on, and can't be done twice."""
    brief, lost = _make(world, expires_s=60), _make(world)
    world.clock.advance(60)
    assert world.call("GET", "/api/tasks", token=brief["token"]).status_code == 401
    assert world.call("DELETE", f"/api/tokens/{lost['id']}").get_json() == {"id": lost["id"], "revoked": True}
    assert world.call("GET", "/api/tasks", token=lost["token"]).status_code == 401
    assert world.call("DELETE", f"/api/tokens/{lost['id']}").status_code == 404
    assert _listed(world)[lost["id"]]["revoked_at"] is not None


def test_another_owners_tokens_do_not_exist(world: World) -> None:
    """Neither in the list nor to be revoked; a node's token is no user's."""
    made = _make(world)
    place = world.place(world.submit())
    assert made["id"] not in _listed(world, world.other_token)
    unknown = world.call("DELETE", "/api/tokens/token-never-was", token=world.other_token).get_json()["error"]
    answer = world.call("DELETE", f"/api/tokens/{made['id']}", token=world.other_token)
    assert answer.status_code == 404
    assert answer.get_json()["error"]["fields"] == unknown["fields"]
    assert world.call("DELETE", f"/api/tokens/token-{place.node_id}").status_code == 404
    assert world.call("GET", "/api/tasks", token=made["token"]).status_code == 200


@pytest.mark.parametrize(
    ("wrong", "status", "field"),
    [
        ({"name": ""}, 422, "name"), ({"name": "x" * 201}, 422, "name"), ({"name": "   "}, 400, "name"),
        ({"role": "king"}, 422, "role"), ({"role": None}, 422, "role"), ({"expires_s": 0}, 422, "expires_s"),
        ({"expires_s": 1e300}, 422, "expires_s"), ({"owner": "bob"}, 422, "owner"),
    ],
)  # fmt: skip
def test_a_token_that_can_not_be_is_named_by_its_field(
    world: World, wrong: dict[str, Any], status: int, field: str
) -> None:
    """And nothing is made."""
    before = _listed(world)
    answer = world.call("POST", "/api/tokens", {"name": "ci", "role": "viewer", **wrong})
    assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (status, [field])
    assert _listed(world).keys() == before.keys()


def test_one_is_told_who_one_is(world: World) -> None:
    """Owner, token, role: for every role."""
    made = _make(world, role="viewer", expires_s=100)
    said = world.call("GET", "/api/whoami", token=made["token"]).get_json()
    assert said == {
        "owner": "ada", "owner_id": made["owner_id"], "token_id": made["id"], "name": "ci", "role": "viewer",
        "browser_id": None, "expires_at": made["expires_at"],
    }  # fmt: skip


def test_the_last_use_is_known_to_the_minute_and_written_once_in_it(world: World) -> None:
    """A hundred requests write it once; checking a token stays one statement."""
    made = _make(world)
    assert _listed(world)[made["id"]]["last_used_at"] is None
    statements: list[str] = []
    event.listen(world.database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    for _ in range(20):
        world.call("GET", "/api/tasks", token=made["token"])
    writes = [one for one in statements if one.startswith("UPDATE tokens")]
    assert len(writes) == 1
    assert len([one for one in statements if "FROM tokens" in one]) == 20
    first = _listed(world)[made["id"]]["last_used_at"]
    world.clock.advance(61)
    world.call("GET", "/api/tasks", token=made["token"])
    assert _listed(world)[made["id"]]["last_used_at"] > first


def test_a_database_that_takes_no_writes_refuses_no_read_for_it(world: World) -> None:
    """That a token was used is a note, and no reason to fail."""
    made = _make(world)
    event.listen(world.database.engine, "connect", lambda raw, _: raw.execute("PRAGMA query_only = ON"))
    world.database.dispose()  # what is opened from now on only reads
    assert world.call("GET", "/api/tasks", token=made["token"]).status_code == 200
    with world.database.read() as tx:
        assert tx.execute(select(Token.last_used_at).where(Token.id == made["id"])).scalar_one() is None
