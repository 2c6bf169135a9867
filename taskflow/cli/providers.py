"""The commands about providers."""

from __future__ import annotations

import click

from taskflow.cli import connection, render
from taskflow.cli.offers import complete_providers
from taskflow.cli.operate import database_app
from taskflow.cli.options import json_goes_last, json_option
from taskflow.cli.problems import FAILED, OK
from taskflow.settings import Settings
from taskflow.words import number


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
    """Ask each provider whether its credential works, on this machine, buying nothing. Ends with 1 when one does not.

    One that works is bought from again, also if its credential was refused or its account was full.
    """
    with database_app() as app:
        found = app.service.providers.check(name)
    if as_json:
        click.echo(render.to_json({"providers": found}))
    else:
        rows = [("ok" if one["ok"] else one["code"], one["provider"], one["says"]) for one in found]
        click.echo(render.table(("STATE", "PROVIDER", "SAYS"), rows))
    return OK if all(one["ok"] for one in found) else FAILED


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
