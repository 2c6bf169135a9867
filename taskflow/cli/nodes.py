"""The commands about nodes."""

from __future__ import annotations

from typing import Any

import click

from taskflow.cli import connection, render
from taskflow.cli.client import Api
from taskflow.cli.history import events_table, last_events
from taskflow.cli.offers import complete_providers
from taskflow.cli.operate import database_app
from taskflow.cli.options import json_goes_last, json_option, node_argument
from taskflow.cli.problems import FAILED, OK
from taskflow.clock import SystemClock
from taskflow.settings import Settings
from taskflow.words import duration, money, number

#: How often a node that is waited for is looked at.
_LOOK_S = 2.0
_EVENTS_SHOWN = 20
_LOG_LINES = 20


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def nodes(context: click.Context, as_json: bool) -> int:
    """The machines on which tasks run. Without a subcommand: list them."""
    if context.invoked_subcommand is None:
        return _list(with_destroyed=False, as_json=as_json)
    json_goes_last(context, as_json)
    return OK


@nodes.command("list")
@click.option("--all", "with_destroyed", is_flag=True, help="Destroyed ones as well.")
@json_option
def list_nodes(with_destroyed: bool, as_json: bool) -> int:
    """List nodes, newest first."""
    return _list(with_destroyed=with_destroyed, as_json=as_json)


@nodes.command()
@node_argument
@json_option
def show(node_id: str, as_json: bool) -> int:
    """Show everything known of a node, and what happened to it last (taskflow events has all of it)."""
    api = connection.connect(Settings.from_env())
    node = api.node(node_id)
    events, count = last_events(api, node_id, _EVENTS_SHOWN)
    if as_json:
        click.echo(render.to_json({**node, "events": events}))
        return OK
    rows = [(name, value) for name, value in node.items() if value is not None]
    click.echo(render.table(("FIELD", "VALUE"), rows))
    click.echo(f"\nlast {len(events)} of {count} events\n{events_table(events)}")
    logs = [event["data"]["log"] for event in events if (event["data"] or {}).get("log")]
    if logs:
        lines = render.clean_lines(logs[-1]).splitlines()[-_LOG_LINES:]
        click.echo("\n".join(["", "the end of its agent's log", *(render.LOG_PREFIX + line for line in lines)]))
    return OK


@nodes.command()
@click.option(
    "--provider",
    required=True,
    metavar="NAME",
    help="Of whom; taskflow providers lists them.",
    shell_complete=complete_providers,
)
@click.option("--size", metavar="S", help="The provider's word for what it is.")
@click.option("--location", metavar="L", help="The provider's word for where it is.")
@click.option("--vcpus", type=float, metavar="N", help="Cores it has at least.")
@click.option("--memory-mb", type=int, metavar="N", help="Memory it has at least.")
@click.option("--wait", is_flag=True, help="Until it can be used. Ends with 1 when it could not be made.")
@json_option
def add(wait: bool, as_json: bool, **wanted: str | float | None) -> int:
    """Order a node: the first offer that fits. It stays, idle or not, until it is drained or destroyed."""
    api = connection.connect(Settings.from_env())
    node = api.add_node({name: value for name, value in wanted.items() if value is not None})
    if wait:
        if not as_json:
            click.echo(f"{node['id']}: ordered")
        node = _settled(api, node["id"])
    what = " ".join(part for part in (node["provider"], node["size"], node["location"]) if part)
    click.echo(render.to_json(node) if as_json else f"{node['id']}: {what}, it is {node['status']}")
    if node["error"] and not as_json:
        click.echo(render.clean(node["error"].get("message")), err=True)
    return OK if not wait or node["status"] in _USABLE else FAILED


_USABLE = ("active", "warm")
_GONE = ("draining", "destroyed", "error")


def _settled(api: Api, node_id: str) -> dict[str, Any]:
    """The node once it can be used, or will never be: its own time limits end the wait."""
    while True:
        node = api.node(node_id)
        if node["status"] in (*_USABLE, *_GONE):
            return node
        SystemClock().sleep(_LOOK_S)


@nodes.command()
@node_argument
@click.option("--reason", metavar="TEXT", help="Why; shown in its history.")
@json_option
def drain(node_id: str, reason: str | None, as_json: bool) -> int:
    """Ask a node to drain and go: it takes nothing new, waits for what is live, then its server is destroyed."""
    node = connection.connect(Settings.from_env()).drain_node(node_id, reason)
    click.echo(render.to_json(node) if as_json else f"{node['id']}: drain requested; it is {node['status']}")
    return OK


@nodes.command()
@node_argument
@click.option("--reason", metavar="TEXT", help="Why; shown in its history.")
@click.option("--force", is_flag=True, help="Wait for nothing: the tasks that live on it fail.")
@json_option
def destroy(node_id: str, reason: str | None, force: bool, as_json: bool) -> int:
    """Let a node go: drain it, or with --force destroy its server at once."""
    node = connection.connect(Settings.from_env()).destroy_node(node_id, reason, force=force)
    click.echo(render.to_json(node) if as_json else f"{node['id']}: destroy requested; it is {node['status']}")
    return OK


@nodes.command()
@json_option
def audit(as_json: bool) -> int:
    """Compare nodes with the servers, addresses and volumes that the providers list, and say what each difference costs.

    Changes nothing. Ends with 1 when there is a difference, or when a provider could not be asked.
    """
    with database_app() as app:
        found = app.service.providers.audit()
    if as_json:
        click.echo(render.to_json(found))
    else:
        rows = [
            (
                one["kind"], one["provider"], one["label"], one["server_id"], duration(one["age_s"]),
                "?" if one["price_per_hour"] is None else number(one["price_per_hour"]), one["says"],
            )
            for one in found["differences"]
        ]  # fmt: skip
        headers = ("KIND", "PROVIDER", "LABEL", "SERVER", "AGE", "PRICE/H", "SAYS")
        click.echo(render.table(headers, rows) if rows else "nodes and servers agree")
        for name, reason in found["failed"].items():
            click.echo(render.clean(f"{name} could not be asked: {reason}"))
    return FAILED if found["differences"] or found["failed"] else OK


def _list(*, with_destroyed: bool, as_json: bool) -> int:
    found = connection.connect(Settings.from_env()).nodes(destroyed=with_destroyed)
    if as_json:
        click.echo(render.to_json({"nodes": found}))
        return OK
    rows = [
        (
            node["id"], node["provider"], node["status"], f"{node['live_workspaces']}/{node['slots']}",
            duration(node["heartbeat_age_s"]), node["load1"], money(node.get("cost")),
            (node["error"] or {}).get("message"),
        )
        for node in found
    ]  # fmt: skip
    headers = ("ID", "PROVIDER", "STATUS", "WORKSPACES", "HEARTBEAT", "LOAD", "COST", "ERROR")
    click.echo(render.table(headers, rows) if rows else "no nodes")
    return OK
