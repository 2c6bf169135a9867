"""The commands about limits."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Invoke
from tests.cli.test_operate import database, migrated  # noqa: F401  fixtures


@pytest.mark.usefixtures("database")
def test_limits_are_set_listed_and_taken_away(invoke: Invoke) -> None:
    """What is not named stays; an owner that does not exist is exit code 4."""
    assert invoke("quota", "set", "--owner", "ada", "--budget", "5").exit_code == 4
    invoke("token", "create", "--name", "laptop", "--owner", "ada")
    assert invoke("quota", "list").stdout == "no limits\n"
    done = invoke("quota", "set", "--owner", "ada", "--budget", "50", "--nodes", "3")
    assert done.stdout == "ada: nodes 3, budget 50\n"
    invoke("quota", "set", "--owner", "ada", "--project", "web", "--running-tasks", "2", "--vcpu-hours", "1.5")
    rows = json.loads(invoke("quota", "list", "--json").stdout)["quotas"]
    assert [(row["project"], row["nodes_max"], row["running_tasks_max"], row["budget"]) for row in rows] == [
        ("", 3, None, 50.0), ("web", None, 2, None),
    ]  # fmt: skip
    assert "(all)" in invoke("quota", "list").stdout
    assert invoke("quota", "set", "--owner", "ada", "--none", "budget", "--none", "nodes").stdout == "ada: no limits\n"
    assert len(json.loads(invoke("quota", "list", "--json").stdout)["quotas"]) == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "name at least one limit"),
        (["--budget", "1", "--none", "budget"], "--none"),
        (["--none", "everything"], "--none"),
        (["--nodes", "x"], "--nodes"),
        (["--project", "web", "--nodes", "1"], "nodes belong to an owner"),
        (["--budget", "-1"], "budget must be"),
        (["--node-workspaces", "0"], "node_workspaces_max must be"),
    ],
)
@pytest.mark.usefixtures("database")
def test_limits_that_can_not_be_are_wrong_usage(invoke: Invoke, argv: list[str], said: str) -> None:
    """Exit code 2, the option or field is named, nothing is written."""
    invoke("token", "create", "--name", "laptop", "--owner", "ada")
    done = invoke("quota", "set", "--owner", "ada", *argv)
    assert done.exit_code == 2
    assert said in done.stderr
    assert invoke("quota", "list").stdout == "no limits\n"
