"""Callback tokens are renewed by heartbeats' answers: kept before they are used, and never an older one."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from taskflow.agent.problems import StartRefused
from taskflow.agent.store import Store
from taskflow.agent.tokens import Tokens
from tests.agent.control_plane import FakeControlPlane
from tests.agent.orders import node_order
from tests.agent.rig import NODE_ID, NODE_TOKEN, SESSION, SESSION_2, WORKSPACE_TOKEN, WS, AgentRig
from tests.support.waiting import wait_until


def renewal(generation: int, *, workspace: bool = True) -> dict[str, Any]:
    """A heartbeat's answer with tokens of one generation."""
    found: dict[str, Any] = {
        "status": "ok",
        "callback_token": {"token": f"node-{generation}", "generation": generation},
    }
    if workspace:
        found["workspace_tokens"] = {WS: {"token": f"workspace-{generation}", "generation": generation}}
    return found


def answer_with(plane: FakeControlPlane, generation: int) -> None:
    """Renew with the next heartbeat; from then on the old tokens are worth nothing."""
    plane.answers["heartbeat"] = renewal(generation)
    plane.tokens |= {f"node-{generation}", f"workspace-{generation}"}


def wait_renewed(plane: FakeControlPlane, generation: int) -> None:
    """Wait until heartbeats are signed with the node's token of ``generation``."""
    key = f"node:{NODE_ID}:{generation}"
    wait_until(lambda: plane.received("/heartbeat")[-1:] and plane.received("/heartbeat")[-1].key_id == key, key)


def test_renewed_tokens_are_used_by_all_and_after_a_restart(agent: AgentRig, control_plane: FakeControlPlane) -> None:
    """The node's and the workspace's; a killed agent goes on with the newest, though its order holds the oldest."""
    agent.ready()
    wait_until(lambda: control_plane.received(f"/workspaces/{WS}/outcome"), "the ready callback")
    assert control_plane.received(f"/workspaces/{WS}/outcome")[0].key_id == f"workspace:{WS}:0"
    answer_with(control_plane, 3)
    wait_renewed(control_plane, 3)
    control_plane.tokens -= {NODE_TOKEN, WORKSPACE_TOKEN}
    agent.kill()
    before = len(control_plane.callbacks)
    agent.start()
    agent.run("echo", "said")
    later = control_plane.callbacks[before:]
    assert {call.key_id for call in later} == {f"node:{NODE_ID}:3", f"workspace:{WS}:3"}
    assert control_plane.refused == []


def test_a_repeated_create_does_not_bring_an_old_token_back(agent: AgentRig, control_plane: FakeControlPlane) -> None:
    """A worker that repeats what it read before the renewal does no harm; one with a newer token is believed."""
    agent.ready()
    answer_with(control_plane, 2)
    wait_renewed(control_plane, 2)
    control_plane.tokens |= {"workspace-5"}
    assert agent.create(callback_token=WORKSPACE_TOKEN, callback_generation=0).status_code == 200
    assert agent.create(callback_token="workspace-1", callback_generation=1).status_code == 200
    agent.run("true")
    assert control_plane.received(f"/sessions/{SESSION}/outcome")[0].key_id == f"workspace:{WS}:2"
    assert agent.create(callback_token="workspace-5", callback_generation=5).status_code == 200
    agent.run("true", session_id=SESSION_2)
    assert control_plane.received(f"/sessions/{SESSION_2}/outcome")[0].token == "workspace-5"


def test_an_older_generation_is_never_gone_back_to(tmp_path: Path) -> None:
    """Answers may overtake each other, and an order may be older than what was renewed since, or newer."""
    store = Store(tmp_path / "agent.db")
    tokens = Tokens(store, node_order())
    tokens.take(renewal(2))
    tokens.take(renewal(1))
    assert tokens.node_key().id == f"node:{NODE_ID}:2"
    assert Tokens(store, node_order(callback_generation=1)).node_key().token == "node-2"
    newer = Tokens(store, node_order(callback_generation=7, callback_token="node-7"))
    assert (newer.node_key().id, newer.node_key().token) == (f"node:{NODE_ID}:7", "node-7")


def test_a_token_is_kept_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request with it tells the control plane that the old one may go: a full disk must not lose the new one."""
    store = Store(tmp_path / "agent.db")
    tokens = Tokens(store, node_order())

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "remember", full)
        with pytest.raises(sqlite3.Error):
            tokens.take(renewal(1))
    assert tokens.node_key().token == NODE_TOKEN
    tokens.take(renewal(1))
    assert tokens.node_key().token == "node-1"


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"status": "ok"},
        {"status": "ok", "time": 5.0, "callback_token": None, "workspace_tokens": {}},
        {"callback_token": {"token": "x"}},
        {"callback_token": "x", "workspace_tokens": []},
        {"workspace_tokens": {"unknown": {"token": "x", "generation": 9}}},
    ],
)
def test_answers_without_usable_tokens_change_nothing(tmp_path: Path, answer: dict[str, Any]) -> None:
    """An older control plane says its status only; a wrong answer is no reason to stop sending heartbeats."""
    tokens = Tokens(Store(tmp_path / "agent.db"), node_order())
    tokens.take(answer)
    assert tokens.node_key().token == NODE_TOKEN


def test_tokens_are_shown_nowhere(agent: AgentRig, control_plane: FakeControlPlane) -> None:
    """Neither the log nor the text of a key holds one."""
    agent.ready()
    answer_with(control_plane, 4)
    wait_renewed(control_plane, 4)
    agent.run("true")
    log = agent.log.read_text()
    assert "generation 4" in log
    assert not any(token in log for token in control_plane.tokens)
    assert "node-4" not in repr(Tokens(Store(agent.root / "agent.db"), node_order()).node_key())


_VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE workspaces (
    id TEXT PRIMARY KEY, digest TEXT NOT NULL, fence INTEGER NOT NULL, callback_token TEXT NOT NULL, payload TEXT,
    status TEXT NOT NULL, run TEXT NOT NULL, clone TEXT, error TEXT, silenced INTEGER NOT NULL DEFAULT 0
);
INSERT INTO workspaces (id, digest, fence, callback_token, status, run) VALUES ('ws', 'd', 4, 'token', 'ready', '{}');
PRAGMA user_version = 1;
"""


def test_a_file_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    """Its workspaces go on, with their first token; it is upgraded once, and a newer agent's file is refused."""
    path = tmp_path / "agent.db"
    old = sqlite3.connect(path)
    old.executescript(_VERSION_1)
    old.close()
    for _ in range(2):
        store = Store(path)
        workspace = store.workspace("ws")
        assert workspace is not None
        assert (workspace.key.id, workspace.key.token, workspace.fence) == ("workspace:ws:0", "token", 4)
        store.close()
    with sqlite3.connect(path) as later:
        later.execute("PRAGMA user_version = 99")
    later.close()
    with pytest.raises(StartRefused, match="newer agent"):
        Store(path)
