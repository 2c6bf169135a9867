"""The commands about providers."""

from __future__ import annotations

from typing import Any

import click

from taskflow.cli import connection, render
from taskflow.cli.client import Api
from taskflow.cli.offers import complete_providers
from taskflow.cli.operate import database_app
from taskflow.cli.options import json_goes_last, json_option
from taskflow.cli.problems import FAILED, OK, CommandError
from taskflow.cli.render import Progress
from taskflow.clock import Clock, SystemClock
from taskflow.settings import Settings
from taskflow.words import number

#: How long it is waited for a worker, and how often it is looked, in seconds.
WAIT_S, _LOOK_S = 180.0, 1.0


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def providers(context: click.Context, as_json: bool) -> int:
    """Where nodes come from. Without a subcommand: list them."""
    if context.invoked_subcommand is None:
        return _list(as_json=as_json)
    json_goes_last(context, as_json)
    return OK


@providers.command("list")
@json_option
def list_providers(as_json: bool) -> int:
    """List what is for sale, and why not."""
    return _list(as_json=as_json)


@providers.command()
@click.argument("name", required=False, shell_complete=complete_providers)
@json_option
def check(name: str | None, as_json: bool) -> int:
    """Ask each provider whether its credential works, buying nothing. Ends with 1 when one does not.

    With TASKFLOW_URL a worker of that server does it, and the token has to be an admin's; else it is done on this machine,
    with its credentials. One that works is bought from again, also if its credential was refused or its account was full.
    """
    settings = Settings.from_env()
    if connection.over_api(settings):
        found = checked_by_a_worker(connection.connect(settings), name, Progress(err=True, plain=as_json))
    else:
        with database_app() as app:
            found = app.service.providers.check(name)
    if as_json:
        click.echo(render.to_json({"providers": found}))
    else:
        rows = [("ok" if one["ok"] else one["code"], one["provider"], one["says"]) for one in found]
        click.echo(render.table(("STATE", "PROVIDER", "SAYS"), rows))
    return OK if all(one["ok"] for one in found) else FAILED


def checked_by_a_worker(
    api: Api, name: str | None, progress: Progress, clock: Clock | None = None
) -> list[dict[str, Any]]:
    """Ask for the check, and wait until a worker did it: ``{"provider", "ok", "says", "code"}`` each.

    Raises ``CommandError`` when that takes longer than ``WAIT_S``.
    """
    clock = clock or SystemClock()
    end = clock.monotonic() + WAIT_S
    found = api.check_providers(name)
    asked = {one["name"] for one in found}
    if any(one["check"]["pending"] for one in found):
        progress.line(f"asked for a check of {', '.join(one['name'] for one in found)}")
    try:
        while waiting := [one["name"] for one in found if one["check"]["pending"]]:
            progress.provisional(f"waiting for a worker to check {', '.join(waiting)}")
            if clock.monotonic() > end:
                raise CommandError(
                    "the check is not over", f"no worker did that of {', '.join(waiting)} within {WAIT_S:g} s",
                    advice="does a worker run? taskflow sweeps says when outbox last succeeded; the page of nodes shows"
                    " the outcome once there is one",
                )  # fmt: skip
            clock.sleep(_LOOK_S)
            found = [one for one in api.providers() if one["name"] in asked]
    finally:
        progress.provisional("")
    return [{"provider": one["name"], **{key: one["check"][key] for key in ("ok", "says", "code")}} for one in found]


def _list(*, as_json: bool) -> int:
    found = connection.connect(Settings.from_env()).providers()
    if as_json:
        click.echo(render.to_json({"providers": found}))
        return OK
    rows = [
        (
            one["name"], offer["size"], offer["location"], f"{offer['vcpus']:g}", offer["memory_mb"], offer["slots"],
            number(offer["price_per_hour"]), f"{one['nodes']}/{one['nodes_max']}",
            one["closed"] or (f"sold out until {offer['sold_out_until']}" if offer["sold_out_until"] else ""),
        )
        for one in found
        for offer in one["offers"]
    ]  # fmt: skip
    headers = ("PROVIDER", "SIZE", "LOCATION", "VCPUS", "MB", "SLOTS", "PRICE/H", "NODES", "NOT NOW")
    click.echo(render.table(headers, rows))
    return OK
