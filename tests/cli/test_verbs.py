"""What holds for every command: ``--json``, exit codes that the help names, a server that is elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from taskflow.cli import problems
from taskflow.cli.app import cli
from tests.cli.conftest import Invoke
from tests.cli.fake_server import FakeServer

#: Processes of the stack, which say what they do in their logs.
SERVERS = {"agent", "nodehost"}
#: They work on the stores themselves, which are named by other settings than TASKFLOW_URL.
ON_THE_STORES = {
    "up", "db", "sweeps pause", "sweeps resume", "doctor", "quota", "settings", "completion", "metrics", "nodes audit",
    *SERVERS,
}  # fmt: skip


def verbs(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, with the words that name it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from verbs(command, (*path, name))
            if not command.invoke_without_command:
                continue
        yield (*path, name), command


VERBS = dict(verbs())


@pytest.mark.parametrize("path", [path for path in VERBS if path[0] not in SERVERS], ids=" ".join)
def test_every_verb_has_json_and_a_help(path: tuple[str, ...]) -> None:
    """``--json`` is a flag everywhere, and each command says what it does."""
    command = VERBS[path]
    assert any("--json" in parameter.opts and getattr(parameter, "is_flag", False) for parameter in command.params)
    assert command.get_short_help_str()


def test_json_before_a_subcommand_is_refused(connected: FakeServer, invoke: Invoke) -> None:
    """It would be lost without a word; on the group itself it is taken."""
    assert invoke("nodes", "--json").stdout.startswith("{")
    for group in ("nodes", "providers", "sweeps"):
        refused = invoke(group, "--json", "list")
        assert (refused.exit_code, "--json goes behind list" in refused.stderr) == (2, True)


def test_the_help_names_every_exit_code(invoke: Invoke) -> None:
    """The codes of the module are those of the epilog, no more and no fewer."""
    codes = {value for name, value in vars(problems).items() if name.isupper() and isinstance(value, int)}
    epilog = invoke("--help").stdout.partition("Exit codes:")[2]
    assert {int(code) for code in re.findall(r"^ +(\d+)  ", epilog, re.MULTILINE)} == codes


@pytest.mark.parametrize(
    "path", [path for path in VERBS if not {path[0], " ".join(path)} & ON_THE_STORES], ids=" ".join
)
def test_a_verb_asks_the_server_that_the_environment_names(
    server: FakeServer, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...]
) -> None:
    """With TASKFLOW_URL the request goes there with the token; a token that is refused is exit code 1 and said."""
    monkeypatch.setenv("TASKFLOW_URL", server.url)
    monkeypatch.setenv("TASKFLOW_TOKEN", "another")
    arguments = {"run": ["--repo", "https://git.example/r.git", "--", "true"], "add": ["--provider", "local"]}
    arguments |= {"submit": arguments["run"], "start": ["order"], "signal": ["run-1", "paid"], "events": ["x-1"]}
    arguments |= {"create": ["--name", "laptop"]}
    named = ("task_id", "node_id", "thing_id", "token_id", "ids")
    needs_id = any(parameter.required and parameter.name in named for parameter in VERBS[path].params)
    done = invoke(*path, *arguments.get(path[-1], ["x-1"] if needs_id else []))
    assert done.exit_code == 1, done.output
    assert "TASKFLOW_TOKEN" in done.stderr
    assert server.requests[0].headers["Authorization"] == "Bearer another"


@pytest.mark.parametrize(
    "argv",
    [
        ("doctor",),
        ("sweeps", "pause", "prune"),
        ("sweeps", "resume", "prune"),
        ("metrics",),
        ("quota", "list"),
        ("nodes", "audit"),
        ("audit", "--all-owners"),
    ],
    ids=" ".join,
)
def test_what_works_on_the_stores_says_so_where_only_a_server_is_named(
    connected: FakeServer, invoke: Invoke, argv: tuple[str, ...]
) -> None:
    """It does not answer from an empty database of this machine; exit code 3, and which settings it needs."""
    done = invoke(*argv)
    assert done.exit_code == 3, done.output
    assert "TASKFLOW_DATABASE_URL" in done.stderr
    assert connected.requests == []
