"""The audit trail: what is a line, what it says, and what it never holds."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from sqlalchemy import event, select
from sqlalchemy.exc import IntegrityError

from taskflow.db.account_models import AuditRow
from taskflow.errors import InfrastructureError
from tests.web.browser import Browser, fields
from tests.web.world import SPEC, World
from web.limits import RequestLimit


def _lines(world: World, token: str = "", **query: Any) -> list[dict[str, Any]]:
    answer = world.call("GET", "/api/audit", token=token, query_string=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.get_json()["lines"]
    return found


def _stored(world: World) -> list[Any]:
    with world.database.read() as tx:
        return list(tx.execute(select(AuditRow.__table__).order_by(AuditRow.id)).all())


def test_a_write_is_a_line_that_says_who_did_what_to_which(world: World) -> None:
    """With the request's id, by which the log has the rest; newest first."""
    task = world.submit()
    answer = world.call("POST", f"/api/tasks/{task['id']}/cancel", {}, headers={"X-Request-Id": "r-1"})
    cancel, submit, *_ = _lines(world)
    whoami = world.call("GET", "/api/whoami").get_json()
    assert cancel == {
        "at": cancel["at"], "actor": "api:cli", "token_id": whoami["token_id"], "action": "cancel_task",
        "subject_kind": "task", "subject_id": task["id"], "outcome": "done", "request_id": "r-1",
        "data": {"status": answer.status_code},
    }  # fmt: skip
    assert (submit["action"], submit["subject_kind"], submit["subject_id"]) == ("submit_task", "task", task["id"])


def test_a_line_about_several_tasks_names_those_to_which_it_was_done(world: World) -> None:
    """Who cancelled a task is found by its id. What else was named is counted: it may be anybody's, or no task at all."""
    one, ended, two = world.submit(), world.submit(), world.submit()
    world.end(ended, "completed")
    named = [one["id"], ended["id"], "task-s3cret", two["id"]]
    world.call("POST", "/api/tasks/cancel", {"ids": named})
    world.call("POST", "/api/tasks/rerun", {"ids": [one["id"]]})
    rerun, cancel, *_ = _lines(world)
    assert (cancel["action"], cancel["outcome"]) == ("cancel_tasks", "done")
    assert cancel["data"] == {"status": 200, "done": [one["id"], two["id"]], "not_done": 2}
    assert (rerun["outcome"], rerun["data"]) == ("failed", {"status": 200, "done": [], "not_done": 1})


def test_what_was_given_to_somebody_outside_is_on_the_trail_without_its_token(world: World) -> None:
    """For which signal of which run, and until when; what is refused gave nothing."""
    run = world.start()
    made = world.call("POST", f"/api/runs/{run['id']}/callbacks", {"signal": "paid"}).get_json()
    world.call("POST", f"/api/runs/{run['id']}/callbacks", {"signal": "s3cret"})
    refused, given, *_ = _lines(world)
    assert (given["action"], given["subject_kind"], given["subject_id"]) == ("open_callback", "run", run["id"])
    assert given["data"] == {"status": 200, "signal": "paid", "expires_at": made["expires_at"]}
    assert (refused["outcome"], "s3cret" in str(refused)) == ("failed", False)


def test_reads_are_no_lines(world: World) -> None:
    """Nor are the reports of nodes."""
    task = world.submit()
    place, before = world.place(task), len(_stored(world))
    world.call("GET", f"/api/tasks/{task['id']}")
    world.call("GET", "/api/tasks/task-unknown")
    world.call("POST", f"/callbacks/nodes/{place.node_id}/heartbeat", {"nonsense": 1}, token=place.node_token)
    assert len(_stored(world)) == before


def test_what_is_refused_and_what_fails_are_lines_too(world: World) -> None:
    """By the role, by a browser's missing token, by the state of the thing, by the form of the body."""
    viewer = world.service.accounts.create_token(owner="ada", name="v", role="viewer")["token"]
    browser = Browser(world)
    browser.sign_in(world.token)
    world.call("POST", "/api/tasks", SPEC, token=viewer)
    browser.client.post("/api/tasks", json=SPEC)
    world.call("POST", "/api/tasks/task-unknown/cancel", {})
    world.call("POST", "/api/tasks", {"nonsense": 1})
    browser.post("/logout", {})
    said = [(one["outcome"], one["action"], one["actor"], one["data"]["code"]) for one in _lines(world)[:5]]
    assert said == [
        ("refused", "sign_out", "api:cli", "csrf"),
        ("failed", "submit_task", "api:cli", "invalid"), ("failed", "cancel_task", "api:cli", "not_found"),
        ("refused", "submit_task", "api:cli", "csrf"), ("refused", "submit_task", "api:v", "role_too_low"),
    ]  # fmt: skip


def test_who_shows_no_valid_token_and_who_asks_too_often_make_no_lines(world: World) -> None:
    """They are refused before anything is asked of the database, or are nobody: a flood must not fill the trail."""
    before = len(_stored(world))
    world.call("POST", "/api/tasks", SPEC, token=None)
    world.call("POST", "/api/tasks", SPEC, token="tf_wrong")
    world.client.application.extensions["taskflow.limit"] = RequestLimit(0.1)
    assert [world.call("POST", "/api/tasks", {}).status_code for _ in range(3)] == [422, 429, 429]
    assert len(_stored(world)) == before + 1


def test_an_idempotent_repeat_says_that_it_is_one(world: World) -> None:
    """Nothing was made by it."""
    for _ in range(2):
        world.call("POST", "/api/tasks", SPEC, headers={"Idempotency-Key": "k"})
    again, first, *_ = _lines(world)
    assert again["data"].get("replayed") is True and "replayed" not in first["data"]
    assert again["subject_id"] == first["subject_id"]


def test_sign_ins_are_lines_those_that_fail_too(world: World) -> None:
    """Whose token it was, when it was one; else nobody's, which only who operates the installation sees."""
    lost = world.service.accounts.create_token(owner="ada", name="lost")
    world.service.accounts.revoke_token(lost["id"])
    browser = Browser(world)
    browser.sign_in("tf_wrong-" + "x" * 40)
    browser.sign_in(lost["token"])
    browser.sign_in(world.token)
    link = browser.fetch("POST", "/api/sign-in-links", {}).get_json()["path"]
    browser.post("/logout", {"csrf_token": browser.csrf_token()})
    form = fields(browser.get(link))
    browser.post("/login", form)
    browser.post("/login", form)
    said = [(one["action"], one["outcome"], one["actor"], one["data"].get("by")) for one in _lines(world)[:6]]
    assert said == [
        ("sign_in", "refused", "nobody", "link"), ("sign_in", "done", "api:cli", "link"),
        ("sign_out", "done", "api:cli", None), ("create_sign_in_link", "done", "api:cli", None),
        ("sign_in", "done", "api:cli", "token"), ("sign_in", "refused", "nobody", "token"),
    ]  # fmt: skip
    lines, _ = world.service.audit.page_of_all(limit=100)
    of_nobody = [one for one in lines if one["owner"] is None]
    assert [(one["action"], one["outcome"], one["data"]["address"]) for one in of_nobody] == [
        ("sign_in", "refused", "127.0.0.1")
    ]


def test_tokens_are_made_and_revoked_on_the_trail_once_whoever_does_it(world: World) -> None:
    """Over the API by its admin, or on the database by who operates it."""
    made = world.call("POST", "/api/tokens", {"name": "ci", "role": "viewer"}).get_json()
    world.call("DELETE", f"/api/tokens/{made['id']}")
    operated = world.service.accounts.create_token(owner="ada", name="op", role="operator")
    about = [one for one in _lines(world) if one["subject_id"] in (made["id"], operated["id"])]
    assert [(one["action"], one["actor"], one["subject_kind"]) for one in about] == [
        ("create_token", "cli:operator", "token"), ("revoke_token", "api:cli", "token"),
        ("create_token", "api:cli", "token"),
    ]  # fmt: skip
    assert about[2]["data"] == {"status": 201, "name": "ci", "role": "viewer"}


def test_a_browser_is_told_from_the_token_itself(world: World) -> None:
    """A line says which browser it was."""
    browser = Browser(world)
    browser.sign_in(world.token)
    browser.fetch("POST", "/api/tasks", SPEC)
    assert _lines(world)[0]["data"]["browser_id"].startswith("browser-")


def test_the_trail_is_its_owners_admins(world: World) -> None:
    """Another owner's lines do not exist."""
    world.submit()
    assert {one["actor"] for one in _lines(world, world.other_token)} == {"cli:operator"}
    assert [one["subject_kind"] for one in _lines(world, world.other_token)] == ["token"]


def test_pages_neither_skip_nor_repeat_while_lines_are_added(world: World) -> None:
    """Newest first; a cursor that is none is refused by its name."""
    ids = [world.submit()["id"] for _ in range(7)]
    seen, cursor = [], ""
    while True:
        page = world.call("GET", "/api/audit", query_string={"limit": 2, **({"cursor": cursor} if cursor else {})})
        seen += [line["subject_id"] for line in page.get_json()["lines"] if line["subject_kind"] == "task"]
        cursor = page.get_json()["next_cursor"]
        if len(seen) < 5:
            world.submit()
        if cursor is None:
            break
    assert seen == ids[::-1]
    for wrong in ("x", "-1", "1" * 30, "٣", "1\x00"):
        answer = world.call("GET", "/api/audit", query_string={"cursor": wrong})
        assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (400, ["cursor"]), wrong


def test_no_secret_and_nothing_of_a_body_is_ever_on_the_trail_or_in_the_log(world: World) -> None:
    """Tokens, cookies, codes, the texts of pages, secrets and environment of tasks, reasons, odd ids."""
    with structlog.testing.capture_logs() as logged:
        browser = Browser(world)
        browser.sign_in("tf_not-a-token-" + "y" * 40)
        browser.sign_in(world.token)
        made = browser.fetch("POST", "/api/tokens", {"name": "ci", "role": "viewer"}).get_json()
        link = browser.fetch("POST", "/api/sign-in-links", {}).get_json()["path"]
        second = Browser(world)
        second.post("/login", fields(second.get(link)))
        csrf, secrets = browser.csrf_token(), {"KEY": "s3cret-value-of-a-task"}
        task = browser.fetch(
            "POST", "/api/tasks", {**SPEC, "secrets": secrets, "env": {"E": "an-environment"}}
        ).get_json()
        browser.fetch("POST", f"/api/tasks/{task['id']}/cancel", {"reason": "a-reason-of-a-body"})
        browser.fetch("POST", "/api/tasks", {"s3cret-field": "s3cret-value-of-a-task"})
        browser.fetch("POST", "/api/tasks/an%20odd%20id/cancel", {})
    hidden = [
        "tf_not-a-token", world.token, browser.secret, second.secret, csrf, made["token"], link.partition("code=")[2],
        "s3cret", "an-environment", "a-reason", "an odd",
    ]  # fmt: skip
    on_trail = "\n".join(str(tuple(row)) for row in _stored(world))
    assert on_trail.count("submit_task") == 2
    # The path of a request is in the log, by the rule of the log; the ids of this one are no secret.
    in_log = "\n".join(str(line) for line in logged if "odd" not in str(line.get("path")))
    for text in hidden:
        assert text and text not in on_trail and text not in in_log, text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InfrastructureError("the disk is full", code="database_full"), "database_full"),
        (IntegrityError("INSERT", {}, ValueError("x")), "IntegrityError"),
    ],
)
def test_a_trail_that_can_not_be_written_changes_no_answer(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    """The work is done by then, whatever went wrong: the caller is told of it, and the log of what is missing."""

    def full(*_args: object) -> None:
        raise error

    monkeypatch.setattr(world.service.audit, "record", full)
    with structlog.testing.capture_logs() as logged:
        assert world.call("POST", "/api/tasks", SPEC).status_code == 202
    said = next(line for line in logged if line["event"] == "audit_not_written")
    assert (said["log_level"], said["action"], said["outcome"], said["code"]) == ("error", "submit_task", "done", code)


def test_lines_are_added_and_deleted_and_never_changed(world: World) -> None:
    """A whole day of the product sends no UPDATE of the trail."""
    statements: list[str] = []
    event.listen(world.database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    task = world.submit()
    browser = Browser(world)
    browser.sign_in(world.token)
    browser.fetch("POST", f"/api/tasks/{task['id']}/cancel", {})
    browser.post("/logout", {"csrf_token": browser.csrf_token()})
    about = {one.split(None, 1)[0] for one in statements if "audit" in one.lower()}
    assert about == {"INSERT"}
