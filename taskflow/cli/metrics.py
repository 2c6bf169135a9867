"""``taskflow metrics``: what Prometheus is given, and the token it needs."""

from __future__ import annotations

import click

from taskflow.cli import render
from taskflow.cli.operate import database_app, stores_app
from taskflow.cli.options import json_option
from taskflow.cli.problems import OK


@click.command()
@click.option("--token", is_flag=True, help="Print the bearer token of GET /metrics instead.")
@json_option
def metrics(token: bool, as_json: bool) -> int:
    """Print the metrics of this host's processes and of the stores, as GET /metrics answers.

    For a host that runs workers and no web process, as a file for a collector that reads files.
    """
    if token:
        with database_app() as app:
            bearer = app.service.metrics.token()
        click.echo(render.to_json({"token": bearer}) if as_json else bearer)
        return OK
    with stores_app() as app:
        text = app.service.metrics.text().decode()
    click.echo(render.to_json({"metrics": text}) if as_json else text, nl=as_json)
    return OK
