"""The options that describe a task, and the body of ``POST /api/tasks`` that they make."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from taskflow.cli.offers import complete_nodes, complete_providers
from taskflow.cli.repository import Repository, resolve

F = TypeVar("F", bound=Callable[..., Any])

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OWN_PREFIX = "TASKFLOW_"
_RESOURCES = ("provider", "location", "location_policy", "vcpus", "memory_mb")


@dataclass(frozen=True)
class Submission:
    """A body for ``POST /api/tasks`` and the repository it was made for. ``spec`` may hold secrets: never shown."""

    spec: Mapping[str, Any]
    repository: Repository

    def __repr__(self) -> str:
        return f"Submission(repository={self.repository!r})"


def task_options(command: F) -> F:
    """The options of ``run`` and ``submit``, the same for both."""
    options = (
        click.option(
            "--repo", required=True, metavar="PATH_OR_URL", help="A local repository, or what git can clone."
        ),
        click.option("--branch", metavar="B", help="What the work starts from. Default: the current branch."),
        click.option("--setup", metavar="CMD", help="A shell command that prepares the workspace."),
        click.option(
            "--env", "env", multiple=True, metavar="NAME[=VALUE]",
            help="A variable for the command; without a value, yours. Repeatable.",
        ),
        click.option(
            "--secret", "secret", multiple=True, metavar="NAME",
            help="The same for a secret: its value is taken from your environment, encrypted, masked. Repeatable.",
        ),
        click.option("--no-push", is_flag=True, help="Don't push the output branch back to the repository."),
        click.option("--time-limit", type=float, metavar="S", help="Seconds the command may run."),
        click.option("--title", metavar="T", help="What the task is called. Default: its command."),
        click.option("--label", "label", multiple=True, metavar="K=V", help="A label. Repeatable."),
        click.option("--project", metavar="NAME", help="What its usage and limits are counted under."),
        click.option("--node", metavar="ID", shell_complete=complete_nodes, help="Run on this node and no other."),
        click.option(
            "--or-other-node", is_flag=True,
            help="With --node: on another one when that can't be used now (allow_node_fallback of the API).",
        ),
        click.option(
            "--priority", type=click.IntRange(-100, 100), metavar="N", help="The higher, the sooner it is given a place.",
        ),
        click.option(
            "--provider", metavar="NAME", help="Run on a node of this provider.", shell_complete=complete_providers,
        ),
        click.option("--location", metavar="L", help="Run on a node at this place of a provider."),
        click.option(
            "--location-policy", type=click.Choice(["require", "prefer"]),
            help="Only there (require, the default), or there before anywhere else (prefer).",
        ),
        click.option("--vcpus", type=float, metavar="N", help="Cores that are reserved for it on its node."),
        click.option("--memory-mb", type=int, metavar="N", help="Memory that is reserved for it on its node."),
        click.option(
            "--node-loss-reruns", type=click.IntRange(0, 5), default=0, metavar="N",
            help="Run it again by itself, up to N times, when its node is lost.",
        ),
        click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND..."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def build(options: Mapping[str, Any], *, start: bool = True, environ: Mapping[str, str] | None = None) -> Submission:
    """The submission that ``options`` (of ``task_options``) describe. ``environ`` gives values that are not spelled out.

    Raises ``click.BadParameter`` naming the option.
    """
    environ = os.environ if environ is None else environ
    command = list(options["command"])
    if not command or not command[0].strip():
        raise click.BadParameter("say what to run after --", param_hint="'COMMAND'")
    env = _environment(options["env"], environ)
    secrets = _secrets(options["secret"], environ, env)
    limit_s = options["time_limit"]
    if limit_s is not None and not 0 < limit_s < float("inf"):
        raise click.BadParameter("must be more than 0 seconds", param_hint="'--time-limit'")
    if options["or_other_node"] and not options["node"]:
        raise click.BadParameter("no node is named: it goes with --node", param_hint="'--or-other-node'")
    repository = resolve(options["repo"], options["branch"])
    spec: dict[str, Any] = {
        "repository": repository.address,
        "branch": repository.branch,
        "command": command,
        "setup_command": ["sh", "-c", options["setup"]] if options["setup"] else None,
        "env": env,
        "secrets": secrets,
        "push": not options["no_push"],
        "time_limit_s": limit_s,
        "title": options["title"],
        "labels": _labels(options["label"]),
        "project": options["project"],
        "node_id": options["node"],
        "allow_node_fallback": options["or_other_node"] or None,
        "priority": options["priority"],
        "resources": {name: options[name] for name in _RESOURCES if options[name] is not None} or None,
        "node_loss_reruns": options["node_loss_reruns"] or None,
        "start": start,
    }
    return Submission({name: value for name, value in spec.items() if value is not None}, repository)


def _environment(given: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for entry in given:
        name, separator, value = entry.partition("=")
        _check_name(name, "--env")
        found[name] = value if separator else _value_of(name, "--env", environ)
    return found


def _secrets(given: Sequence[str], environ: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for entry in given:
        name, separator, _ = entry.partition("=")
        if separator:  # never repeats the value
            raise click.BadParameter(
                f"{name if _VARIABLE.fullmatch(name) else 'NAME'}: a value on the command line is seen by everybody on "
                "this machine; put it in the environment and give the name alone",
                param_hint="'--secret'",
            )
        _check_name(name, "--secret")
        if name in env:
            raise click.BadParameter(f"{name} is given with --env too", param_hint="'--secret'")
        found[name] = _value_of(name, "--secret", environ)
    return found


def _labels(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for entry in given:
        name, separator, value = entry.partition("=")
        if not name or not separator:
            raise click.BadParameter(f"{entry!r} is not of the form K=V", param_hint="'--label'")
        found[name] = value
    return found


def _check_name(name: str, option: str) -> None:
    if not _VARIABLE.fullmatch(name):
        raise click.BadParameter("a name must match [A-Za-z_][A-Za-z0-9_]*", param_hint=f"'{option}'")
    if name.upper().startswith(_OWN_PREFIX):
        raise click.BadParameter(
            f"{name}: names that begin with {_OWN_PREFIX} are taskflow's own", param_hint=f"'{option}'"
        )


def _value_of(name: str, option: str, environ: Mapping[str, str]) -> str:
    value = environ.get(name)
    if value is None:
        raise click.BadParameter(f"{name} is not set in your environment", param_hint=f"'{option}'")
    return value
