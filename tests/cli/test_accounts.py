"""The commands about who asks, and about tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Invoke
from tests.cli.fake_server import FakeServer
from tests.cli.test_operate import database, migrated  # noqa: F401  fixtures


def _line(number: int) -> dict[str, Any]:
    return {
        "at": f"2026-01-01T00:00:{number:02}.000Z", "actor": "api:laptop", "token_id": "token-1",
        "action": "cancel_task", "subject_kind": "task", "subject_id": f"task-{number}", "outcome": "done",
        "request_id": "r", "data": {"status": 202},
    }  # fmt: skip


def test_a_link_is_printed_alone(connected: FakeServer, invoke: Invoke) -> None:
    """So that a script or a shell's command substitution can take it; it holds no token."""
    done = invoke("login")
    assert done.stdout == f"{connected.url}/login?code=tf_code_once\n"
    assert json.loads(invoke("login", "--json").stdout)["url"] == done.stdout.strip()
    assert connected.token not in done.output


def test_one_is_told_who_one_is(connected: FakeServer, invoke: Invoke) -> None:
    """Owner, token and role."""
    said = invoke("whoami").stdout
    assert all(word in said for word in ("ada", "laptop", "viewer"))
    assert json.loads(invoke("whoami", "--json").stdout)["role"] == "viewer"


def test_the_trail_is_listed_in_pages_or_whole(connected: FakeServer, invoke: Invoke) -> None:
    """A page says that there are more; ``--all`` asks for them."""
    connected.audit = [_line(number) for number in range(3)]
    page = invoke("audit", "--limit", "2")
    assert "task-1" in page.stdout and "task-2" not in page.stdout and "status=202" in page.stdout
    assert "--all" in page.stderr
    connected.audit = [_line(number % 60) for number in range(450)]
    assert len(json.loads(invoke("audit", "--all", "--json").stdout)["lines"]) == 450


def test_a_role_that_is_too_low_is_said_with_what_to_do(connected: FakeServer, invoke: Invoke) -> None:
    """Exit code 1 and the server's own words."""
    error = {
        "code": "role_too_low",
        "message": "this needs the role admin",
        "advice": "use a token with the role admin",
    }
    connected.refuse["GET", "/api/audit"] = (403, {"error": error})
    done = invoke("audit")
    assert done.exit_code == 1
    assert "this needs the role admin" in done.stderr and "use a token with the role admin" in done.stderr


@pytest.mark.usefixtures("database")
def test_a_token_gets_its_role_and_what_operators_do_is_on_the_trail(invoke: Invoke) -> None:
    """The role is listed; making and revoking are lines of the trail of all owners, without the token."""
    made = json.loads(invoke("token", "create", "--name", "ci", "--owner", "ada", "--role", "viewer", "--json").stdout)
    assert made["role"] == "viewer"
    assert invoke("token", "create", "--name", "x", "--role", "king").exit_code == 2
    invoke("token", "revoke", made["id"])
    rows = json.loads(invoke("token", "list", "--json").stdout)["tokens"]
    assert [(row["name"], row["role"], row["last_used_at"]) for row in rows] == [("ci", "viewer", None)]
    assert "viewer" in invoke("token", "list").stdout
    found = invoke("audit", "--all-owners", "--json").stdout
    lines = json.loads(found)["lines"]
    assert [(one["action"], one["subject_id"], one["owner"], one["outcome"]) for one in lines] == [
        ("revoke_token", made["id"], "ada", "done"), ("create_token", made["id"], "ada", "done"),
    ]  # fmt: skip
    assert lines[1]["data"] == {"name": "ci", "role": "viewer"}
    assert made["token"] not in found


def _listed(token_id: str) -> dict[str, Any]:
    times = dict.fromkeys(("last_used_at", "expires_at", "revoked_at"))
    return {"id": token_id, "name": "ci", "role": "viewer", "created_at": "2026-01-01T00:00:00.000Z", **times}


def test_tokens_are_made_listed_and_revoked_where_only_a_server_is_named(connected: FakeServer, invoke: Invoke) -> None:
    """With what is printed on a host: the token alone, and lists with whose each is."""
    made = invoke("token", "create", "--name", "ci", "--role", "viewer", "--expires", "60", "--owner", "ada")
    assert made.stdout == "tf_made\n", made.output
    assert connected.asked("POST", "/api/tokens")[0].body == {"name": "ci", "role": "viewer", "expires_s": 60.0}
    connected.tokens = [_listed("token-1"), _listed("token-2")]
    rows = json.loads(invoke("token", "list", "--json").stdout)["tokens"]
    assert [(row["id"], row["owner"]) for row in rows] == [("token-1", "ada"), ("token-2", "ada")]
    assert "token-2" in invoke("token", "list").stdout
    assert invoke("token", "revoke", "token-1").stdout == "token-1: revoked\n"
    assert connected.asked("DELETE", "/api/tokens/token-1")


@pytest.mark.parametrize(
    ("argv", "option"), [(("--owner", "bob"), "--owner"), (("--expires", "nan"), "--expires"),
                         (("--expires", "inf"), "--expires")]
)  # fmt: skip
def test_a_token_that_no_server_makes_is_refused_before_it_is_asked_for(
    connected: FakeServer, invoke: Invoke, argv: tuple[str, ...], option: str
) -> None:
    """Over the API one is made for the owner who asks; another owner's needs the installation's host."""
    done = invoke("token", "create", "--name", "x", *argv)
    assert done.exit_code == 2 and option in done.stderr, done.output
    assert connected.asked("POST", "/api/tokens") == []


def test_a_token_whose_answer_was_lost_is_not_made_twice(connected: FakeServer, invoke: Invoke) -> None:
    """Nobody would know of the first one; the command says that it does not know."""
    connected.drop = 1
    assert invoke("token", "create", "--name", "x").exit_code == 3
    assert len(connected.asked("POST", "/api/tokens")) == 1


@pytest.mark.usefixtures("database")
def test_who_names_the_database_makes_tokens_of_every_owner(
    server: FakeServer, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where a server is named as well, as on a host of the installation."""
    monkeypatch.setenv("TASKFLOW_URL", server.url)
    monkeypatch.setenv("TASKFLOW_DATABASE_URL", f"sqlite:///{tmp_path / 'data' / 'taskflow.db'}")
    assert invoke("token", "create", "--name", "x", "--owner", "bob").exit_code == 0
    assert [row["owner"] for row in json.loads(invoke("token", "list", "--json").stdout)["tokens"]] == ["bob"]
    assert server.requests == []
