"""The commands about what was used, and the limits of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from taskflow.cli import connection, render
from taskflow.cli.operate import database_app
from taskflow.cli.options import json_option
from taskflow.cli.problems import OK
from taskflow.db.usage import LIMITS
from taskflow.settings import Settings
from taskflow.words import duration, money, number

#: How the options call the limits.
_WORDS = dict(zip(LIMITS, ("nodes", "running-tasks", "node-workspaces", "vcpu-hours", "budget"), strict=True))


@click.command()
@click.option("--month", metavar="YYYY-MM", help="A calendar month in UTC. Default: the present one.")
@json_option
def usage(month: str | None, as_json: bool) -> int:
    """Say what nodes cost and tasks used in a month, by provider and project, with the limits in force.

    Money is in the currency of the catalogue's prices.
    """
    found = connection.connect(Settings.from_env()).usage(month)
    click.echo(render.to_json(found) if as_json else _usage_text(found))
    return OK


@click.group()
def quota() -> None:
    """What owners and projects may use. These commands work on the database itself: they are for who operates it."""


@quota.command("set")
@click.option("--owner", required=True, metavar="NAME", help="Whose; as taskflow token list shows it.")
@click.option("--project", default="", metavar="NAME", help="Of this project of theirs alone.")
@click.option("--nodes", "nodes_max", type=int, metavar="N", help="Nodes that are being made or stand.")
@click.option("--running-tasks", "running_tasks_max", type=int, metavar="N", help="Tasks that have a place on a node.")
@click.option("--node-workspaces", "node_workspaces_max", type=int, metavar="N", help="Workspaces on one node.")
@click.option("--vcpu-hours", "vcpu_hours_max", type=float, metavar="H", help="vCPU hours of tasks in a month.")
@click.option("--budget", type=float, metavar="M", help="Cost in a month; when it is used up, nothing more is bought.")
@click.option(
    "--none", "lifted", multiple=True, type=click.Choice(tuple(_WORDS.values())), help="Take a limit away. Repeatable."
)
@json_option
def set_quota(owner: str, project: str, lifted: tuple[str, ...], as_json: bool, **limits: float | None) -> int:
    """Set limits; those that are not named stay. Whoever waits for one looks again."""
    values: dict[str, float | None] = {name: value for name, value in limits.items() if value is not None}
    for name, word in _WORDS.items():
        if word in lifted:
            if name in values:
                raise click.BadParameter(f"{word} is given a value too", param_hint="'--none'")
            values[name] = None
    if not values:
        raise click.UsageError("name at least one limit, or take one away with --none")
    with database_app() as app:
        found = app.service.usage.set_quota(owner, project, values)
    whose = f"{owner}, project {project}" if project else owner
    click.echo(render.to_json(found) if as_json else f"{render.clean(whose)}: {limits_text(found) or 'no limits'}")
    return OK


@quota.command("list")
@json_option
def list_quotas(as_json: bool) -> int:
    """List the limits of all owners and projects."""
    with database_app() as app:
        found = app.service.usage.quotas()
    if as_json:
        click.echo(render.to_json({"quotas": found}))
        return OK
    rows = [(one["owner"], one["project"] or "(all)", *(_number(one[name]) for name in LIMITS)) for one in found]
    headers = ("OWNER", "PROJECT", *(word.upper() for word in _WORDS.values()))
    click.echo(render.table(headers, rows) if rows else "no limits")
    return OK


def limits_text(limits: Mapping[str, Any]) -> str:
    """The limits that there are, in a line."""
    return ", ".join(f"{word} {_number(limits[name])}" for name, word in _WORDS.items() if limits[name] is not None)


def _number(value: float | None) -> str | None:
    return None if value is None else number(value)


def _usage_text(found: Mapping[str, Any]) -> str:
    about = render.pairs(
        [
            ("month", f"{found['month']}, until {found['until']}"),
            ("nodes stood", duration(found["node_seconds"])),
            ("cost", money(found["cost"])),
            ("of it by tasks", money(found["tasks_cost"])),
            ("of it idle", money(found["idle_cost"])),
            ("vCPU hours", f"{found['vcpu_hours']:.2f}"),
            ("limits", limits_text(found["limits"]) or "none"),
        ],
        indent="",
    )
    providers = [
        (
            one["name"], one["nodes"], duration(one["node_seconds"]), f"{one['vcpu_hours']:.2f}",
            money(one["cost"]), money(one["idle_cost"]),
        )
        for one in found["providers"]
    ]  # fmt: skip
    projects = [
        (
            one["name"] or "(none)", one["tasks"], duration(one["task_seconds"]), f"{one['vcpu_hours']:.2f}",
            money(one["cost"]), limits_text(one["limits"]) or None,
        )
        for one in found["projects"]
    ]  # fmt: skip
    parts = [about]
    if providers:
        parts.append(render.table(("PROVIDER", "NODES", "STOOD", "VCPU HOURS", "COST", "IDLE"), providers))
    if projects:
        parts.append(render.table(("PROJECT", "TASKS", "PLACES", "VCPU HOURS", "COST", "LIMITS"), projects))
    return "\n\n".join(parts)
