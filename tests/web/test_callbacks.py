"""What nodes and workspaces report, over the real routes: early, twice, late, contradictory, out of order."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from werkzeug.test import TestResponse

from taskflow import protocol
from taskflow.db.models import AgentSession, Node, Task, Workspace
from tests.web.world import Place, World
from web.auth import CALLBACK_BODY_BYTES_MAX

READY = {"status": "ready", "base_commit": "c0ffee"}
FAILED = {"status": "failed", "error": {"code": "clone", "message": "no such repository", "phase": "clone"}}
EXITED = {"outcome": "exited", "exit_code": 0, "commit": "beef", "output_branch": "taskflow/t-1", "pushed": True}
BEAT = {
    "protocol_version": 1, "agent_version": "0.1", "boot_id": "boot-1", "address": "http://127.0.0.1:9", "ready": True,
}  # fmt: skip


@pytest.fixture
def task(world: World) -> dict[str, Any]:
    """A task under way."""
    return world.submit()


@pytest.fixture
def place(world: World, task: dict[str, Any]) -> Place:
    """Where it runs."""
    return world.place(task)


def _outcome(world: World, place: Place, body: Any) -> TestResponse:
    path = protocol.route(protocol.CALLBACK_WORKSPACE_OUTCOME, workspace_id=place.workspace_id)
    return world.call("POST", path, body, token=place.workspace_token)


def _session(world: World, place: Place, body: Any, session_id: str | None = None) -> TestResponse:
    path = protocol.route(
        protocol.CALLBACK_SESSION_OUTCOME,
        workspace_id=place.workspace_id,
        session_id=session_id or place.session_id,
    )
    return world.call("POST", path, body, token=place.workspace_token)


def _chunk(world: World, place: Place, number: int, data: bytes | str) -> TestResponse:
    path = protocol.route(protocol.CALLBACK_SESSION_LOGS, workspace_id=place.workspace_id, session_id=place.session_id)
    encoded = base64.b64encode(data).decode() if isinstance(data, bytes) else data
    return world.call("POST", path, {"number": number, "data": encoded}, token=place.workspace_token)


def _beat(world: World, place: Place, route: str = protocol.CALLBACK_NODE_HEARTBEAT, **more: Any) -> TestResponse:
    return world.call("POST", protocol.route(route, node_id=place.node_id), {**BEAT, **more}, token=place.node_token)


def test_a_ready_callback_before_the_runner_waits_is_stored_and_rung(
    world: World, task: dict[str, Any], place: Place
) -> None:
    """The run is still at its first step: the report is kept for the step that will ask, and the run is rung."""
    world.publisher.rung.clear()
    answer = _outcome(world, place, READY)
    assert (answer.status_code, answer.get_json()) == (200, {"recorded": True})
    assert world.row(Workspace, place.workspace_id).status == "ready"
    assert world.publisher.rung == [task["run_id"]]
    kinds = [e["kind"] for e in world.call("GET", f"/api/tasks/{task['id']}/events").get_json()["events"]]
    assert kinds.count("signal_recorded") == 1


def test_a_ready_callback_twice_changes_nothing_and_rings_again(
    world: World, task: dict[str, Any], place: Place
) -> None:
    """The first ring may have died with its process, so a repeat rings too; it answers the same."""
    first = _outcome(world, place, READY)
    before = world.row(Workspace, place.workspace_id)
    world.publisher.rung.clear()
    world.clock.advance(5)
    second = _outcome(world, place, dict(reversed(READY.items())))
    assert (second.status_code, second.get_json()) == (first.status_code, first.get_json())
    assert world.row(Workspace, place.workspace_id) == before
    assert world.publisher.rung == [task["run_id"]]


def test_a_contradiction_is_409_with_what_was_stored(world: World, place: Place) -> None:
    """The first answer counts; the sender of another one is told which it was."""
    _outcome(world, place, READY)
    answer = _outcome(world, place, FAILED)
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"]) == (409, "already_answered")
    assert error["detail"]["stored"] == {**READY, "error": None}
    assert world.row(Workspace, place.workspace_id).status == "ready"


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_ready_callback_after_the_end_is_410(world: World, task: dict[str, Any], place: Place, status: str) -> None:
    """After the end the sender is told to stop, and the workspace is not brought back."""
    world.end(task, status)
    assert _outcome(world, place, READY).status_code == 410
    assert world.row(Workspace, place.workspace_id).status == "reserved"


def test_a_callback_of_an_earlier_run_is_410(world: World, task: dict[str, Any], place: Place) -> None:
    """A rerun has a workspace of its own; the old one's report does not reach it."""
    world.end(task, "failed")
    again = world.call("POST", f"/api/tasks/{task['id']}/rerun").get_json()
    world.publisher.rung.clear()
    assert _outcome(world, place, READY).status_code == 410
    assert _session(world, place, EXITED).status_code == 410
    assert world.publisher.rung == []
    assert world.call("GET", f"/api/tasks/{task['id']}").get_json() == again


def test_an_unknown_workspace_or_session_is_404(world: World, place: Place) -> None:
    """A workspace or session that is not known here is unknown, also with a token that still is."""
    assert _session(world, place, EXITED, "session-unknown").status_code == 404
    foreign = world.place(world.submit())
    assert _session(world, place, EXITED, foreign.session_id).status_code == 404
    world.rename(place, "ws-unknown")
    path = protocol.route(protocol.CALLBACK_WORKSPACE_OUTCOME, workspace_id="ws-unknown")
    assert world.call("POST", path, READY, token=place.workspace_token).status_code == 404


def test_a_session_ends_once(world: World, task: dict[str, Any], place: Place) -> None:
    """The outcome is stored and rung; a repeat answers the same; another outcome is refused with the stored one."""
    world.publisher.rung.clear()
    first, second = _session(world, place, EXITED), _session(world, place, EXITED)
    assert (first.status_code, first.get_json()) == (200, {"recorded": True})
    assert (second.status_code, second.get_json()) == (200, {"recorded": True})
    assert world.publisher.rung == [task["run_id"]] * 2
    other = _session(world, place, {**EXITED, "exit_code": 1})
    assert (other.status_code, other.get_json()["error"]["detail"]["stored"]["exit_code"]) == (409, 0)
    assert world.row(AgentSession, place.session_id).outcome["exit_code"] == 0


def test_a_result_after_a_verdict_of_death_is_kept_and_offered(
    world: World, task: dict[str, Any], place: Place
) -> None:
    """The task was failed as session_lost, then the session reports: kept as a late result, the status stays."""
    world.end(task, "failed", {"code": "session_lost", "message": "the session was lost"})
    answer = _session(world, place, EXITED)
    assert (answer.status_code, answer.get_json()) == (200, {"recorded": True, "late": True})
    shown = world.call("GET", f"/api/tasks/{task['id']}").get_json()
    assert (shown["status"], shown["late_result"]["commit"]) == ("failed", "beef")
    assert _session(world, place, EXITED).get_json() == {"recorded": True, "late": True}
    assert _session(world, place, {**EXITED, "commit": "other"}).status_code == 410


@pytest.mark.parametrize(
    ("error", "body"),
    [
        ({"code": "exit_code", "message": "exit status 1"}, EXITED),
        ({"code": "session_lost", "message": "lost"}, {"outcome": "lost"}),
        (None, EXITED),
    ],
)
def test_another_result_after_the_end_is_410(
    world: World, task: dict[str, Any], place: Place, error: dict[str, str] | None, body: dict[str, Any]
) -> None:
    """Only a result that proves a verdict of death wrong is kept."""
    world.end(task, "failed", error)
    assert _session(world, place, body).status_code == 410
    assert world.row(Task, task["id"]).late_result is None


def test_log_chunks_are_stored_once_and_in_order(world: World, task: dict[str, Any], place: Place) -> None:
    """Each answer names the number wanted next: a repeat and a gap change nothing and bring the sender back."""
    sent = [(1, b"a"), (1, b"a"), (3, b"c"), (2, b"b"), (1, b"a"), (3, b"c")]
    wanted = [_chunk(world, place, number, data).get_json()["next"] for number, data in sent]
    assert wanted == [2, 2, 2, 3, 3, 4]
    raw = world.call("GET", f"/api/tasks/{task['id']}/logs", headers={"Accept": "text/plain"})
    assert raw.data == b"abc"
    assert world.row(AgentSession, place.session_id).log_bytes == 3


def test_log_chunks_still_come_after_the_end(world: World, task: dict[str, Any], place: Place) -> None:
    """The last output of a cancelled command is kept: its sender may be slower than the runner."""
    world.end(task, "cancelled")
    assert _chunk(world, place, 1, b"last words").status_code == 200


def test_the_largest_chunk_is_taken_and_a_larger_one_is_not(world: World, place: Place) -> None:
    """A chunk of the protocol's size passes the limits of the body."""
    assert _chunk(world, place, 1, b"x" * protocol.LOG_CHUNK_BYTES_MAX).status_code == 200
    assert _chunk(world, place, 2, b"x" * (protocol.LOG_CHUNK_BYTES_MAX + 1)).status_code == 400


def test_the_largest_outcome_is_taken(world: World, place: Place) -> None:
    """A thousand changed files with the longest paths are one report."""
    files = [f"{number:04d}" + "/é" * 1800 for number in range(1000)]
    assert _session(world, place, {**EXITED, "changed_files": files}).status_code == 200


@pytest.mark.parametrize("number", [0, -1, "one", None])
def test_a_chunk_without_a_number_is_refused(world: World, place: Place, number: Any) -> None:
    """Numbers begin at 1."""
    answer = _chunk(world, place, number, b"x")
    assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (400, ["number"])


def test_a_callback_of_wrong_form_is_answered_so_that_its_sender_stops(world: World, place: Place) -> None:
    """What can't be read will not be read next time either: 400 is final by the protocol, 413, 415 and 422 are not."""
    path = protocol.route(protocol.CALLBACK_WORKSPACE_OUTCOME, workspace_id=place.workspace_id)
    sent: list[dict[str, Any]] = [
        {"json": {}},
        {"json": {"status": "perhaps"}},
        {"json": ["ready"]},
        {"data": b"status=ready", "content_type": "text/plain"},
        {"data": b"{", "content_type": "application/json"},
        {"data": b" " * (CALLBACK_BODY_BYTES_MAX + 1), "content_type": "application/json"},
    ]
    for kwargs in sent:
        assert world.call("POST", path, token=place.workspace_token, **kwargs).status_code == 400, str(kwargs)[:80]
    assert _chunk(world, place, 1, "no base64!").status_code == 400
    assert _chunk(world, place, 1, "\x95QUFB").status_code == 400  # beyond ASCII


def test_a_newer_peer_may_say_more(world: World, place: Place) -> None:
    """Unknown fields of a callback are ignored: agent and control plane are not updated in one moment."""
    assert _outcome(world, place, {**READY, "mood": "good"}).status_code == 200
    assert _beat(world, place, mood="good").status_code == 200


@pytest.mark.parametrize("route", [protocol.CALLBACK_NODE_READY, protocol.CALLBACK_NODE_HEARTBEAT])
def test_a_beat_says_that_the_node_is_ready(world: World, place: Place, route: str) -> None:
    """Ready callback and heartbeat record the same, so a lost ready callback costs one beat; the node's run is rung."""
    world.publisher.rung.clear()
    answer = _beat(world, place, route, load1=0.5)
    assert (answer.status_code, answer.get_json()["status"]) == (200, "active")
    node = world.row(Node, place.node_id)
    assert (node.boot_id, node.address, node.agent_ready_at is not None) == ("boot-1", "http://127.0.0.1:9", True)
    shown = world.call("GET", "/api/nodes").get_json()["nodes"][0]
    assert (shown["load1"], shown["heartbeat_age_s"]) == (0.5, 0.0)


def test_a_beat_notes_the_progress_of_the_nodes_own_sessions(world: World, place: Place) -> None:
    """Progress is the beat's time minus the age it reports; sessions of other nodes are not touched."""
    foreign = world.place(world.submit())
    sessions = [
        {
            "session_id": one.session_id, "workspace_id": one.workspace_id, "status": "running", "output_bytes": 1,
            "output_age_s": 7.0,
        }
        for one in (place, foreign)
    ]  # fmt: skip
    _beat(world, place, sessions=sessions)
    node = world.row(Node, place.node_id)
    progress = world.row(AgentSession, place.session_id).last_progress_at
    assert progress == pytest.approx(node.last_heartbeat_at - 7.0)
    assert world.row(AgentSession, foreign.session_id).last_progress_at is None


def test_a_beat_of_a_destroyed_node_is_410(world: World, place: Place) -> None:
    """A destroyed node is told to stop, and its row is left as it is."""
    world.destroy(place)
    assert _beat(world, place).status_code == 410
    assert world.row(Node, place.node_id).last_heartbeat_at is None


def test_the_order_of_a_node_goes_to_the_first_server_that_asks(world: World) -> None:
    """Also when its answer was lost; a copy of the token on another server gets nothing."""
    place = world.place(world.submit())
    path = f"/callbacks/nodes/{place.node_id}/bootstrap"
    ask = {"protocol_version": 1, "claim": "c" * 32}
    first = world.call("POST", path, ask, token=place.bootstrap_token)
    again = world.call("POST", path, ask, token=place.bootstrap_token)
    other = world.call("POST", path, {**ask, "claim": "d" * 32}, token=place.bootstrap_token)
    assert first.status_code == again.status_code == 200
    assert first.get_json() == again.get_json()
    assert protocol.load(protocol.NodeOrderSchema, first.get_json())["node_id"] == place.node_id
    assert (other.status_code, other.get_json()["error"]["code"]) == (403, "bootstrap_used")
    assert world.call("POST", path, {**ask, "claim": "short"}, token=place.bootstrap_token).status_code == 400


def test_the_bootstrap_token_is_worth_nothing_once_the_agent_is_ready(world: World) -> None:
    """Whoever reads the user data later finds a key without a lock."""
    place = world.place(world.submit())
    path = f"/callbacks/nodes/{place.node_id}/bootstrap"
    ask = {"protocol_version": 1, "claim": "c" * 32}
    assert world.call("POST", path, ask, token=place.bootstrap_token).status_code == 200
    beat = {
        "protocol_version": 1, "agent_version": "1", "boot_id": "b", "address": "http://127.0.0.1:1", "ready": True,
    }  # fmt: skip
    ready = world.call("POST", f"/callbacks/nodes/{place.node_id}/ready", beat, token=place.node_token)
    assert ready.status_code == 200
    assert world.call("POST", path, ask, token=place.bootstrap_token).status_code == 401
