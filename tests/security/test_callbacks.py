"""Reports of nodes and workspaces that are forged, replayed, reordered or too late."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from sqlalchemy import select

from taskflow import protocol
from taskflow.db.models import AgentSession, SignalRow, Task, Workspace
from taskflow.sweeps.prune import prune
from tests.security.conftest import Picture
from tests.web.test_callbacks import BEAT, EXITED, FAILED, READY
from tests.web.world import Place, World

LOST = {"outcome": "lost", "error": {"code": "x", "message": "x", "phase": "start"}}
CHUNK = {"number": 1, "data": "aGk="}
_OUTCOME, _SESSION, _LOGS = (
    protocol.CALLBACK_WORKSPACE_OUTCOME, protocol.CALLBACK_SESSION_OUTCOME, protocol.CALLBACK_SESSION_LOGS,
)  # fmt: skip
REPORTS: dict[str, Any] = {_OUTCOME: READY, _SESSION: EXITED, _LOGS: CHUNK}


def _post(world: World, route: str, place: Place, body: Any, token: str, **ids: str) -> int:
    named = {
        "node_id": place.node_id, "workspace_id": place.workspace_id, "session_id": place.session_id, **ids,
    }  # fmt: skip
    return world.call("POST", route.format(**named), body, token=token).status_code


@pytest.mark.parametrize("route", sorted(REPORTS))
def test_a_workspace_reports_itself_and_its_own_session_only(world: World, picture: Picture, route: str) -> None:
    """Not another workspace, not another one's session under its own name, and with no other kind of token."""
    mine, other = world.place(world.submit()), world.place(world.submit())
    body, before = REPORTS[route], picture()
    for token in (other.workspace_token, mine.node_token, world.token, world.other_token):
        assert _post(world, route, mine, body, token) == 403
    if "{session_id}" in route:
        assert _post(world, route, mine, body, mine.workspace_token, session_id=other.session_id) == 404
    assert picture() == before
    assert _post(world, route, mine, body, mine.workspace_token) == 200


@pytest.mark.parametrize("route", [protocol.CALLBACK_NODE_READY, protocol.CALLBACK_NODE_HEARTBEAT])
def test_a_node_reports_itself_only(world: World, picture: Picture, route: str) -> None:
    """Nor can it tell of another node's sessions: they would look alive."""
    mine, other = world.place(world.submit()), world.place(world.submit())
    before = picture()
    for token in (other.node_token, mine.workspace_token, world.token):
        assert _post(world, route, mine, BEAT, token) == 403
    assert picture() == before
    told = {"session_id": other.session_id, "workspace_id": other.workspace_id, "status": "running",
            "output_bytes": 1, "output_age_s": 0.0}  # fmt: skip
    assert _post(world, route, mine, {**BEAT, "sessions": [told]}, mine.node_token) == 200
    assert world.row(AgentSession, other.session_id).last_progress_at is None


@pytest.mark.parametrize("order", list(itertools.permutations([_OUTCOME, _SESSION, _LOGS])))
def test_whatever_the_order_the_first_answer_to_each_question_counts(
    world: World, picture: Picture, order: tuple[str, ...]
) -> None:
    """Replays change nothing, contradictions are 409 and change nothing."""
    place = world.place(world.submit())
    for route in order:
        assert _post(world, route, place, REPORTS[route], place.workspace_token) == 200
    before = picture()
    for route in reversed(order):
        assert _post(world, route, place, REPORTS[route], place.workspace_token) == 200
    for route, otherwise in ((_OUTCOME, FAILED), (_SESSION, LOST), (_SESSION, {**EXITED, "exit_code": 1})):
        assert _post(world, route, place, otherwise, place.workspace_token) == 409
    assert picture() == before


def test_a_secret_in_a_report_is_not_stored_and_its_repeat_is_the_same(world: World, picture: Picture) -> None:
    """In the names of changed files and in what failed; the unmasked report again is a repeat, no contradiction."""
    secret = "s3cret-value-that-is-unique"
    place = world.place(world.submit(secrets={"TOKEN": secret}))
    failed = {"code": "push", "message": f"no {secret}", "phase": "push"}
    said = {**EXITED, "pushed": False, "changed_files": [f"{secret}.txt"], "error": failed}
    assert _post(world, _SESSION, place, said, place.workspace_token) == 200
    stored = world.row(AgentSession, place.session_id).outcome
    assert stored["changed_files"] == ["***.txt"]
    assert stored["error"]["message"] == "no ***"
    with world.database.read() as tx:
        assert secret not in str(tx.execute(select(SignalRow.payload)).all())
    before = picture()
    assert _post(world, _SESSION, place, said, place.workspace_token) == 200
    assert picture() == before


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_after_the_end_nothing_is_recorded_any_more(world: World, picture: Picture, status: str) -> None:
    """410 for each report that would say how a task ended."""
    task = world.submit()
    place = world.place(task)
    world.end(task, status)
    before = picture()
    for route, body in ((_OUTCOME, READY), (_OUTCOME, FAILED), (_SESSION, EXITED), (_SESSION, LOST)):
        assert _post(world, route, place, body, place.workspace_token) == 410
    assert picture() == before


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_rerun_hears_nothing_of_what_its_predecessor_says(world: World, picture: Picture, status: str) -> None:
    """Its workspace has another token, and the task another run."""
    task = world.submit()
    place = world.place(task)
    world.end(task, status)
    again = world.call("POST", f"/api/tasks/{task['id']}/rerun", {}).get_json()
    fresh = world.place(again)
    before = picture()
    for route, body in ((_OUTCOME, READY), (_OUTCOME, FAILED), (_SESSION, EXITED), (_SESSION, LOST)):
        assert _post(world, route, place, body, place.workspace_token) == 410
        assert _post(world, route, fresh, body, place.workspace_token) == 403
    assert picture() == before
    assert world.row(Workspace, fresh.workspace_id).status == "reserved"
    assert world.row(Task, task["id"]).run_id == again["run_id"]


def test_what_is_long_over_has_no_token_any_more(world: World, picture: Picture) -> None:
    """Log chunks are still taken a while after the end; not for ever. The tokens of what lives stay."""
    over, lives = world.submit(), world.submit()
    old, new = world.place(over), world.place(lives)
    world.end(over, "cancelled")
    world.destroy(old)
    assert _post(world, _LOGS, old, CHUNK, old.workspace_token) == 200
    world.clock.advance(10)
    assert (
        prune(world.database, now=world.clock.now(), keep_s=0.0, limit=10)["tokens"] == 3
    )  # bootstrap, node, workspace
    before = picture()
    for route in REPORTS:
        assert _post(world, route, old, REPORTS[route], old.workspace_token) == 401
    assert _post(world, protocol.CALLBACK_NODE_HEARTBEAT, old, BEAT, old.node_token) == 401
    assert picture() == before
    assert _post(world, _OUTCOME, new, READY, new.workspace_token) == 200
    assert _post(world, protocol.CALLBACK_NODE_HEARTBEAT, new, BEAT, new.node_token) == 200
