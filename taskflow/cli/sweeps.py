"""The commands about scheduled jobs."""

from __future__ import annotations

import click

from taskflow.cli import render
from taskflow.cli.operate import stores_app
from taskflow.cli.problems import OK
from taskflow.cli.tasks import json_option


@click.group(invoke_without_command=True)
@click.pass_context
def sweeps(context: click.Context) -> int:
    """The scheduled jobs. Without a subcommand: list them."""
    if context.invoked_subcommand is None:
        return _list(as_json=False)
    return OK


@sweeps.command("list")
@json_option
def list_sweeps(as_json: bool) -> int:
    """List them with their last success and what they did."""
    return _list(as_json=as_json)


@sweeps.command()
@click.argument("name")
def pause(name: str) -> int:
    """Stop one, until it is resumed. Doctor reminds of it."""
    return _switch(name, paused=True)


@sweeps.command()
@click.argument("name")
def resume(name: str) -> int:
    """Let one run again."""
    return _switch(name, paused=False)


def _switch(name: str, *, paused: bool) -> int:
    with stores_app() as app:
        app.service.health.pause_sweep(name, paused=paused)
    click.echo(f"{name}: {'paused' if paused else 'runs again'}")
    return OK


def _list(*, as_json: bool) -> int:
    with stores_app() as app:
        found, paused = app.service.health.sweeps(), app.service.health.paused_sweeps()
    rows = [{**one, "paused": one["name"] in paused} for one in found]
    if as_json:
        click.echo(render.to_json({"sweeps": rows}))
        return OK
    shown = [(row["name"], row["state"], row["last_success_at"], row["failures"], row["last_result"]) for row in rows]
    click.echo(render.table(("NAME", "STATE", "LAST SUCCESS", "FAILURES", "DID"), shown))
    for row in rows:
        for one in row["failing"]:
            click.echo(f"{row['name']} fails at {one['item']} ({one['failures']} times): {one['error']['message']}")
    return OK
