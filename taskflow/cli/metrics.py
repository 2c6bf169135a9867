"""``taskflow metrics``: what Prometheus is given, and the token it needs."""

from __future__ import annotations

import click

from taskflow.cli.operate import database_app, stores_app
from taskflow.cli.problems import OK


@click.command()
@click.option("--token", is_flag=True, help="Print the bearer token of GET /metrics instead.")
def metrics(token: bool) -> int:
    """Print the metrics of this host's processes and of the stores, as GET /metrics answers.

    For a host that runs workers and no web process, as a file for a collector that reads files.
    """
    if token:
        with database_app() as app:
            click.echo(app.service.metrics.token())
        return OK
    with stores_app() as app:
        click.echo(app.service.metrics.text().decode(), nl=False)
    return OK
