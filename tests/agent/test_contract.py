"""What the agent's routes promise: idempotency, fences, tombstones, capacity, auth, errors."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from tests.agent.rig import AGENT_TOKEN, SESSION, SESSION_2, WS, WS_2, WS_3, AgentRig
from tests.support.waiting import wait_until


def test_creating_a_workspace_twice_answers_the_same(agent: AgentRig) -> None:
    """The same content again, with a newer fence and token, is the same workspace and is provisioned once."""
    agent.control_plane.tokens.add("newer")
    first = agent.ready()
    again = agent.create(fence=5, callback_token="newer")
    assert again.status_code == 200
    assert again.json() == first
    assert len(agent.control_plane.received(f"/workspaces/{WS}/outcome")) == 1
    agent.run("true", fence=5)
    outcome = agent.control_plane.received(f"/sessions/{SESSION}/outcome")[0]
    assert outcome.token == "newer"


def test_other_content_under_the_same_id_is_a_conflict(agent: AgentRig) -> None:
    """An id means one content: another one is refused with 409 ``conflict``."""
    agent.ready()
    answer = agent.create(branch="other")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_a_lower_fence_is_refused_everywhere(agent: AgentRig) -> None:
    """An earlier writer can neither create, nor start, nor delete: 409 ``fenced``."""
    agent.ready(fence=7)
    answers = [agent.create(fence=6), agent.session("true", fence=6), agent.delete(fence=6)]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(409, "fenced")] * 3
    assert agent.session("true", fence=9).status_code == 200
    assert agent.create(fence=8).status_code == 409, "the session's fence counts too"


def test_a_deleted_workspace_cannot_be_created_again(agent: AgentRig) -> None:
    """A tombstone outlives the workspace, its repeat and an agent restart; an unknown id gets one too."""
    agent.ready()
    directory = agent.root / "workspaces" / WS
    for _ in range(2):
        answer = agent.delete(fence=3)
        assert (answer.status_code, answer.json()["status"]) == (200, "deleted")
    assert not directory.exists()
    assert agent.delete("never-seen", fence=3).status_code == 200
    assert agent.delete("never-seen", fence=2).json()["code"] == "fenced"
    agent.kill()
    agent.start()
    for workspace_id in (WS, "never-seen"):
        answer = agent.create(workspace_id, fence=9)
        assert (answer.status_code, answer.json()["code"]) == (410, "gone")
        assert agent.session("true", workspace_id=workspace_id, fence=9).status_code == 410
        assert agent.workspace(workspace_id)["status"] == "deleted"
    assert not directory.exists()


def test_no_more_workspaces_than_slots(agent: AgentRig) -> None:
    """The third workspace on two slots is refused with 503 ``capacity``; a deletion makes room."""
    agent.ready(WS)
    agent.ready(WS_2)
    refused = agent.create(WS_3)
    assert (refused.status_code, refused.json()["code"]) == (503, "capacity")
    agent.delete(WS)
    assert agent.create(WS_3).status_code == 202


def test_starting_a_session_twice_runs_it_once(agent: AgentRig) -> None:
    """The same session again answers its state, other content 409; the command ran once."""
    agent.ready()
    command = ("sh", "-c", "echo run >> count")
    agent.run(*command, secrets={"KEY": "the-first-key"})
    again = agent.session(*command, secrets={"KEY": "the-first-key"}, fence=2)
    # Not merely equal to what a look says a moment later: begun again it would be running in both.
    assert again.json()["status"] == "ended"
    assert again.json() == agent.session_state()
    other = agent.session(*command, secrets={"KEY": "another-key"}, fence=2)
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    assert (agent.root / f"workspaces/{WS}/repo/count").read_text() == "run\n"


def test_a_session_needs_a_ready_workspace(agent: AgentRig) -> None:
    """409 ``not_ready`` while the workspace is prepared and after it failed; 404 when there is none."""
    agent.create(setup_command=["sleep", "60"])
    early = agent.session("true")
    assert (early.status_code, early.json()["code"]) == (409, "not_ready")
    assert agent.session("true", workspace_id="no-such").status_code == 404
    assert agent.call("GET", agent.session_path(WS, "no-such")).status_code == 404


def test_one_session_at_a_time_in_a_workspace(agent: AgentRig) -> None:
    """A second session waits for the first to end: 409 ``busy``, then it runs."""
    agent.ready()
    agent.begin("sleep", "60")
    busy = agent.session("true", session_id=SESSION_2)
    assert (busy.status_code, busy.json()["code"]) == (409, "busy")
    agent.stop()
    agent.outcome()
    assert agent.run("true", session_id=SESSION_2)["outcome"] == "exited"


def test_every_route_but_health_needs_the_signature_of_the_agent_token(agent: AgentRig) -> None:
    """Without one, or with the bare token, nothing is told and nothing is done."""
    agent.ready()
    workspace, session = agent.workspace_path(WS), agent.session_path(WS, "s")
    routes = [
        ("GET", "/v1/node"),
        ("GET", "/v1/log"),
        ("PUT", workspace),
        ("GET", workspace),
        ("DELETE", workspace + "?fence=9"),
        ("PUT", session),
        ("GET", session),
        ("POST", session + "/stop"),
    ]
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer no"},
        {"Authorization": f"Bearer {AGENT_TOKEN}"},
        {"Authorization": "Bearer wörong".encode().decode("latin-1")},
    ]
    for headers in wrong:
        for method, path in routes:
            answer = agent.call(method, path, {}, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), path
    assert agent.call("GET", "/health", headers={}).status_code == 200
    assert agent.workspace()["status"] == "ready"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/v1/workspaces/ws-9", {"fence": "x"}, 422),
        ("PUT", "/v1/workspaces/ws-9", None, 400),
        ("PUT", "/v1/workspaces/..", {}, 422),
        ("DELETE", "/v1/workspaces/ws-9", None, 400),
        ("GET", "/v1/workspaces/ws-9", None, 404),
        ("GET", "/nowhere", None, 404),
        ("DELETE", "/v1/node", None, 405),
    ],
)
def test_wrong_requests_are_answered_with_a_code(
    agent: AgentRig, method: str, path: str, body: dict[str, Any] | None, status: int
) -> None:
    """Each refusal is JSON with a code and a message; bad fields are named."""
    if path.endswith(".."):
        path = "/v1/workspaces/.hidden"
    answer = agent.call(method, path, body)
    assert answer.status_code == status
    assert answer.json()["code"] and answer.json()["message"]
    if status == 422:
        assert answer.json()["fields"]


def test_a_workspace_the_control_plane_ended_is_not_told_of_any_more(agent: AgentRig) -> None:
    """After a 410 nothing more is sent for that workspace, and the session's outcome can still be asked for."""
    agent.ready()
    wait_until(lambda: agent.control_plane.received(f"/workspaces/{WS}/outcome"), "the ready callback")
    agent.control_plane.fault = lambda callback: 410 if f"/workspaces/{WS}/" in callback.path else None
    agent.begin("sh", "-c", "echo one; sleep 1; echo two")
    wait_until(lambda: agent.session_state()["status"] == "ended", "the session ends")
    beats = len(agent.control_plane.received("/heartbeat"))
    wait_until(lambda: len(agent.control_plane.received("/heartbeat")) > beats + 2, "three more heartbeats")
    assert len(agent.control_plane.received("/logs")) == 1
    assert not agent.control_plane.received(f"/sessions/{SESSION}/outcome")
    assert agent.session_state()["outcome"]["outcome"] == "exited"


def test_a_node_that_is_gone_ends_with_its_sessions(agent: AgentRig) -> None:
    """410 on a heartbeat ends the sessions and then the agent."""
    agent.ready()
    agent.begin("sleep", "1000")
    agent.control_plane.fault = lambda callback: 410 if "/nodes/" in callback.path else None
    process = agent.process
    assert process is not None
    wait_until(lambda: process.poll() is not None, "the agent ends")
    assert process.returncode == 0
    wait_until(lambda: not agent.leftovers(), "nothing is left")


def test_a_request_of_a_trace_is_answered_and_logged_with_it(agent: AgentRig) -> None:
    """The agent hands nothing on and needs nothing for it; what is no such header is left alone."""
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    given = f"00-{trace_id}-00f067aa0ba902b7-01"
    path = agent.workspace_path("none")

    def ask(traceparent: str, *, signed: bool = True) -> requests.Response:
        authorization = {"Authorization": agent.sign("GET", path, b"")} if signed else {}
        return agent.call("GET", path, headers={"traceparent": traceparent, **authorization})

    answer = ask(given)
    assert (answer.status_code, answer.headers["traceparent"]) == (404, given)
    assert [ask(wrong).headers.get("traceparent") for wrong in ("x", given.upper(), given + "-more", "")] == [None] * 4
    assert "traceparent" not in ask(given, signed=False).headers, "strangers write no lines"
