"""What a task may be: wrong input is refused, and the field is named."""

from __future__ import annotations

from typing import Any

import pytest

from taskflow.db.models import Task
from tests.web.world import SPEC, World

BAD: list[tuple[str, Any, str]] = [
    ("repository", None, "repository"),
    ("repository", "", "repository"),
    ("repository", "  ", "repository"),
    ("repository", 7, "repository"),
    ("repository", "/" + "x" * 2000, "repository"),
    ("repository", "-upload-pack=evil", "repository"),
    ("repository", "--help", "repository"),
    ("repository", "/srv/\0repo", "repository"),
    ("repository", "/srv/repo\n", "repository"),
    ("repository", "/srv/\ud800", "repository"),
    ("repository", "relative/path", "repository"),
    ("repository", ".", "repository"),
    ("repository", "ext::sh -c evil", "repository"),
    ("repository", "git://host/repo", "repository"),
    ("repository", "file://host/repo", "repository"),
    ("repository", "https://", "repository"),
    ("repository", "https:///repo", "repository"),
    ("repository", "https:host/repo", "repository"),
    ("repository", "https://[::1/repo", "repository"),
    ("repository", "https://host:port/repo", "repository"),
    ("repository", "https://user:hunter2@host/repo", "repository"),
    ("repository", "ssh://-oProxyCommand=evil/repo", "repository"),
    ("repository", "ssh://git@-oProxyCommand=evil/repo", "repository"),
    ("repository", "git@-oProxyCommand=evil:repo", "repository"),
    ("repository", "-git@host:repo", "repository"),
    ("repository", "git@host:", "repository"),
    ("branch", "", "branch"),
    ("branch", "-b", "branch"),
    ("branch", "a b", "branch"),
    ("branch", "a..b", "branch"),
    ("branch", "a~1", "branch"),
    ("branch", "a^", "branch"),
    ("branch", "a:b", "branch"),
    ("branch", "a?", "branch"),
    ("branch", "a*", "branch"),
    ("branch", "a[0]", "branch"),
    ("branch", "a\\b", "branch"),
    ("branch", "a@{1}", "branch"),
    ("branch", "@", "branch"),
    ("branch", "/a", "branch"),
    ("branch", "a/", "branch"),
    ("branch", "a//b", "branch"),
    ("branch", ".a", "branch"),
    ("branch", "a/.b", "branch"),
    ("branch", "a.", "branch"),
    ("branch", "a.lock", "branch"),
    ("branch", "a.lock/b", "branch"),
    ("branch", "a\x7f", "branch"),
    ("branch", "x" * 501, "branch"),
    ("command", None, "command"),
    ("command", [], "command"),
    ("command", "ls -l", "command"),
    ("command", [""], "command"),
    ("command", ["x"] * 1001, "command"),
    ("command", ["ls", 1], "command.1"),
    ("command", ["ls", None], "command.1"),
    ("command", ["ls", "a\0b"], "command.1"),
    ("command", ["ls", "\udc80"], "command.1"),
    ("command", ["ls", "x" * 131_072], "command.1"),
    ("setup_command", [], "setup_command"),
    ("setup_command", ["a\0"], "setup_command.0"),
    ("env", [], "env"),
    ("env", {"1A": "x"}, "env.1A"),
    ("env", {"": "x"}, "env."),
    ("env", {"A-B": "x"}, "env.A-B"),
    ("env", {"A=B": "x"}, "env.A=B"),
    ("env", {"TASKFLOW_TOKEN": "x"}, "env.TASKFLOW_TOKEN"),
    ("env", {"taskflow_token": "x"}, "env.taskflow_token"),
    ("env", {"A": 1}, "env.A"),
    ("env", {"A": None}, "env.A"),
    ("env", {"A": "x\0"}, "env.A"),
    ("env", {"A": "x" * 32_769}, "env.A"),
    ("env", {"A": "é" * 16_385}, "env.A"),
    ("env", {f"A{n}": "x" for n in range(101)}, "env"),
    ("secrets", {"TASKFLOW_X": "x"}, "secrets.TASKFLOW_X"),
    ("secrets", {"key": 1}, "secrets.key"),
    ("secrets", {f"A{n}": "x" for n in range(101)}, "secrets"),
    ("push", "yes", "push"),
    ("push", 1, "push"),
    ("push", None, "push"),
    ("start", "false", "start"),
    ("time_limit_s", 0, "time_limit_s"),
    ("time_limit_s", -1, "time_limit_s"),
    ("time_limit_s", "60", "time_limit_s"),
    ("time_limit_s", True, "time_limit_s"),
    ("title", "x" * 501, "title"),
    ("title", "a\0", "title"),
    ("title", 5, "title"),
    ("labels", {f"l{n}": "x" for n in range(51)}, "labels"),
    ("labels", {"a": 1}, "labels.a"),
    ("labels", {"a": "x\0"}, "labels.a"),
    ("labels", {"": "x"}, "labels."),
    ("labels", ["a"], "labels"),
    ("priority", 101, "priority"),
    ("priority", -101, "priority"),
    ("priority", 1.5, "priority"),
    ("priority", "1", "priority"),
    ("priority", 10**30, "priority"),
    ("node_id", "a b", "node_id"),
    ("allow_node_fallback", "no", "allow_node_fallback"),
    ("resources", {"location": "fsn1", "location_policy": "near"}, "resources.location_policy"),
    ("status", "completed", "status"),
    ("owner_id", "owner-1", "owner_id"),
]


@pytest.mark.parametrize(("field", "value", "named"), BAD, ids=[f"{n}-{row[0]}" for n, row in enumerate(BAD)])
def test_wrong_input_is_refused_by_name(world: World, field: str, value: Any, named: str) -> None:
    """422, the one field that is wrong is named, its value is not repeated, and no task is made."""
    answer = world.call("POST", "/api/tasks", {**SPEC, field: value})
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"], list(error["fields"])) == (422, "invalid", [named])
    assert "hunter2" not in answer.text
    assert "evil" not in answer.text
    assert world.count(Task) == 0


GOOD: list[dict[str, Any]] = [
    {"repository": "/srv/with space/repo"},
    {"repository": "file:///srv/repo"},
    {"repository": "https://host.example/a/b.git"},
    {"repository": "https://user@host.example:8443/a/b.git"},
    {"repository": "http://93.184.215.14:3000/a"},
    {"repository": "https://[2606:2800:21f:cb07::1]/repo"},
    {"repository": "ssh://git@host.example:2222/a/b.git"},
    {"repository": "git@host.example:a/b.git"},
    {"branch": None},
    {"branch": "feature/größe_1.2-x@y"},
    {"command": ["sh", "-c", "echo 'a b' \"$X\" ; true\n", ""]},
    {"command": ["x"] * 1000},
    {"command": ["sh", "x" * 131_071]},
    {"setup_command": None},
    {"setup_command": ["make", "install"]},
    {"env": {"_A1": "", "PATH": "/bin", "key": "k", "value": "v"}},
    {"env": {"A": "x" * 32_768}, "secrets": {"B": "y"}},
    {"push": False, "allow_node_fallback": True, "node_id": "node-1"},
    {"resources": {"location": "fsn1", "location_policy": "prefer"}},
    {"time_limit_s": 60},
    {"time_limit_s": 0.5},
    {"time_limit_s": None, "title": None},
    {"title": "x" * 500, "labels": {"team": "a", "key": "k"}, "priority": -100},
    {"priority": 100},
]


@pytest.mark.parametrize("spec", GOOD)
def test_right_input_is_taken_as_it_is(world: World, spec: dict[str, Any]) -> None:
    """What the rules allow is stored and shown unchanged."""
    task = world.submit(**spec)
    shown = {name: value for name, value in spec.items() if name in task and value is not None and name != "node_id"}
    assert {name: task[name] for name in shown} == shown


def test_a_time_limit_above_the_ceiling_is_refused(world: World) -> None:
    """The product's own limits answer 400 and name the field as well."""
    answer = world.call("POST", "/api/tasks", {**SPEC, "time_limit_s": 1e9})
    assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (400, ["time_limit_s"])


def test_all_wrong_fields_are_named_at_once(world: World) -> None:
    """One answer names everything that is wrong."""
    answer = world.call("POST", "/api/tasks", {"branch": "-x", "priority": 1000, "nonsense": True})
    assert set(answer.get_json()["error"]["fields"]) == {"repository", "command", "branch", "priority", "nonsense"}


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/api/tasks?limit=0", "limit"),
        ("/api/tasks?limit=201", "limit"),
        ("/api/tasks?limt=5", "limt"),
        ("/api/tasks?cursor=", "cursor"),
        (f"/api/tasks?cursor={'x' * 201}", "cursor"),
        ("/api/tasks/{id}/events?after=-1", "after"),
        ("/api/tasks/{id}/events?after=99999999999999999999", "after"),
        ("/api/tasks/{id}/events?limit=1001", "limit"),
        ("/api/tasks/{id}/logs?after=x", "after"),
        ("/api/tasks/{id}/logs?run_id=%00", "run_id"),
        ("/api/nodes?destroyed=perhaps", "destroyed"),
    ],
)
def test_wrong_queries_are_refused_by_name(world: World, path: str, named: str) -> None:
    """Queries are as strict as bodies: a misspelt parameter is seen, not ignored."""
    answer = world.call("GET", path.format(id=world.submit()["id"]))
    assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (422, [named])
