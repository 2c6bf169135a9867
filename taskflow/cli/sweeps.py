"""The commands about scheduled jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from taskflow.cli import connection, render
from taskflow.cli.offers import complete_sweeps
from taskflow.cli.operate import stores_app
from taskflow.cli.options import json_goes_last, json_option
from taskflow.cli.problems import OK
from taskflow.settings import Settings


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def sweeps(context: click.Context, as_json: bool) -> int:
    """The scheduled jobs. Without a subcommand: list them. pause and resume work on Redis itself."""
    if context.invoked_subcommand is None:
        return _list(as_json=as_json)
    json_goes_last(context, as_json)
    return OK


@sweeps.command("list")
@json_option
def list_sweeps(as_json: bool) -> int:
    """List them with their last success and what they did.

    What they fail at may be another owner's: with TASKFLOW_URL it is said at how many things, on a host of the
    installation at which.
    """
    return _list(as_json=as_json)


@sweeps.command()
@click.argument("name", shell_complete=complete_sweeps)
@json_option
def pause(name: str, as_json: bool) -> int:
    """Stop one, until it is resumed. Doctor reminds of it."""
    return _switch(name, paused=True, as_json=as_json)


@sweeps.command()
@click.argument("name", shell_complete=complete_sweeps)
@json_option
def resume(name: str, as_json: bool) -> int:
    """Let one run again."""
    return _switch(name, paused=False, as_json=as_json)


def _switch(name: str, *, paused: bool, as_json: bool) -> int:
    with stores_app() as app:
        app.service.health.pause_sweep(name, paused=paused)
    said = f"{name}: {'paused' if paused else 'runs again'}"
    click.echo(render.to_json({"name": name, "paused": paused}) if as_json else said)
    return OK


def _list(*, as_json: bool) -> int:
    settings, promised = Settings.from_env(), {}
    if connection.over_api(settings):
        answer = connection.connect(settings).sweeps()
        found, promised = answer["sweeps"], {"promises": answer.get("promises", [])}
    else:
        with stores_app() as app:
            found = app.service.health.sweeps()
    rows = [{**one, "paused": one["state"] == "paused"} for one in found]
    if as_json:
        click.echo(render.to_json({"sweeps": rows, **promised}))
        return OK
    shown = [
        (row["name"], row["state"], row["last_success_at"], row["failures"], _did(row["last_result"])) for row in rows
    ]
    click.echo(render.table(("NAME", "STATE", "LAST SUCCESS", "FAILURES", "DID"), shown))
    for line in (line for row in rows for line in _failing(row)):
        click.echo(render.clean(line))
    for one in promised.get("promises", []):
        about = f"{one['kind']} {one['task_id'] or ''}".rstrip()
        click.echo(render.clean(f"of yours: {about} ({one['attempts']} times): {one['message']}"))
    return OK


def _failing(row: Mapping[str, Any]) -> list[str]:
    name, failing = row["name"], row["failing"]
    if isinstance(failing, int):  # over the API
        return (
            [f"{name} fails at {failing}: taskflow sweeps on a host of the installation says at what"]
            if failing
            else []
        )
    return [f"{name} fails at {one['item']} ({one['failures']} times): {one['error']['message']}" for one in failing]


def _did(result: Mapping[str, Any] | None) -> str | None:
    return None if result is None else ", ".join(f"{name} {value}" for name, value in result.items())
