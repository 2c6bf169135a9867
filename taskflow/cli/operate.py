"""The commands of who operates an installation: the stack, its database, its settings."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from taskflow import logs
from taskflow.cli import connection, embedded, render
from taskflow.cli.options import json_option
from taskflow.cli.problems import OK, CommandError, NoServer, no_database, no_stack
from taskflow.cli.render import Progress
from taskflow.logs import mask_text
from taskflow.settings import Settings, table
from taskflow.stack.data_dir import SQLITE_FILE, DataDir, StackInfo
from taskflow.words import number

if TYPE_CHECKING:
    from taskflow.bootstrap import App

#: Nobody connects to it: where only the database is asked, the Redis client is never used.
_UNUSED_REDIS = "redis://127.0.0.1:1/0"


@click.command()
@click.option("--no-flower", is_flag=True, help="Without the Flower dashboard.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object once everything is ready.")
def up(no_flower: bool, as_json: bool) -> int:
    """Start the stack on the data directory and serve until Ctrl-C.

    Without TASKFLOW_REDIS_URL and TASKFLOW_DATABASE_URL: an embedded server and SQLite, both in the data directory.
    """
    settings = Settings.from_env()
    embedded.configure_logs(settings)
    progress = Progress(err=as_json, plain=as_json)
    supervisor = embedded.make_supervisor(settings, progress, with_flower=not no_flower)
    stack_file = supervisor.data_dir.stack_file

    def ready(info: StackInfo) -> None:
        if as_json:
            click.echo(render.to_json(_public(info, supervisor.data_dir)))
        else:
            *lines, last = embedded.serving_lines(info, supervisor.settings, stack_file)
            progress.line("\n".join(["", *lines, embedded.sign_in_line(info), last]))

    progress.line(f"starting the stack in {supervisor.data_dir.root}")
    try:
        supervisor.run_forever(ready)
    finally:
        progress.provisional("")
    progress.line("stopped")
    return OK


def _public(info: StackInfo, data_dir: DataDir) -> dict[str, Any]:
    return {
        "url": info.url,
        "flower_url": info.flower_url or None,
        "flower_user": info.flower_user or None,
        "data_dir": str(data_dir.root),
        "stack_file": str(data_dir.stack_file),
        "pid": info.supervisor_pid,
    }


@click.group()
def db() -> None:
    """The database."""


@db.command()
@json_option
def upgrade(as_json: bool) -> int:
    """Bring the schema up to date. Safe to repeat."""
    settings = Settings.from_env()
    embedded.configure_logs(settings)
    from taskflow.db import migrate
    from taskflow.db.session import make_engine

    engine = make_engine(settings.database_url or DataDir(settings).database_url)
    try:
        revision = migrate.upgrade(engine)
    finally:
        engine.dispose()
    click.echo(render.to_json({"revision": revision}) if as_json else f"the schema is at {revision}")
    return OK


@db.command()
@click.argument("shards", type=click.IntRange(1, 1024))
@json_option
def reshard(shards: int, as_json: bool) -> int:
    """Change the number of SHARDS of the alarm index. Every process must be stopped.

    The control state is deleted; it is rebuilt from SQL when a worker starts with TASKFLOW_SHARDS set to the new number.
    """
    settings = Settings.from_env()
    data_dir = DataDir(settings)
    if data_dir.is_serving():
        raise CommandError(
            "the shards were not changed",
            f"a stack serves {data_dir.root}",
            advice="stop it first: Ctrl-C in its terminal",
        )
    from taskflow.db.installation import write_shards

    with database_app() as app:
        if settings.redis_url:
            app.control.erase()
        else:
            shutil.rmtree(data_dir.valkey, ignore_errors=True)  # the embedded server holds nothing else
        write_shards(app.database, shards)
    said = f"{shards} shards; start every process with TASKFLOW_SHARDS={shards}"
    click.echo(render.to_json({"shards": shards}) if as_json else said)
    return OK


@click.command("settings")
@json_option
def show_settings(as_json: bool) -> int:
    """Show every setting, its value and where it came from. Secrets are hidden."""
    settings = Settings.from_env()
    rows = []
    for row in table():
        value = getattr(settings, row.name)
        source = "environment" if os.environ.get(row.env) else "default"
        shown = "(hidden)" if row.secret and value else mask_text(value) if isinstance(value, str) else value
        rows.append({"variable": row.env, "value": shown, "unit": row.unit, "source": source, "help": row.help})
    if as_json:
        click.echo(render.to_json({"settings": rows, "data_dir": str(settings.data_path)}))
        return OK
    lines = [(r["variable"], _shown(r["value"]), r["unit"], r["source"], r["help"]) for r in rows]
    click.echo(render.table(("VARIABLE", "VALUE", "UNIT", "FROM", "HELP"), lines))
    return OK


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
def agent(argv: tuple[str, ...]) -> None:
    """Run the node agent; what follows goes to it (taskflow agent --help)."""
    from taskflow import agent as node_agent

    status = node_agent.main(list(argv))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not an ordinary exit: threads of the agent may hang in a request, and its state is on disk.
    os._exit(status)


@click.command()
def nodehost() -> int:
    """Run the agents of this machine's local nodes. The stack starts it."""
    settings = Settings.from_env()
    logs.configure(settings)
    from taskflow.stack import nodehost as host

    return host.main(settings)


@contextmanager
def stores_app() -> Iterator[App]:
    """The wired application for commands that need both stores. Raises when no stack and no stores are named."""
    settings = Settings.from_env()
    embedded.configure_logs(settings)
    found = connection.stores(settings)
    if found is None:
        raise _elsewhere(settings) if settings.url else no_stack(settings.data_path)
    from taskflow.bootstrap import bootstrap

    app = bootstrap(found)
    try:
        yield app
    finally:
        app.close()


@contextmanager
def database_app() -> Iterator[App]:
    """The wired application for commands that need the database alone. Raises when its schema is not this release's."""
    settings = Settings.from_env()
    embedded.configure_logs(settings)
    from taskflow.bootstrap import bootstrap
    from taskflow.db.migrate import check_current

    found = connection.stores(settings) or dataclasses.replace(settings, redis_url=_UNUSED_REDIS)
    if not found.database_url and not (settings.data_path.expanduser() / SQLITE_FILE).exists():
        # A mistyped directory must not become an installation with a key and a database of its own.
        raise _elsewhere(settings) if settings.url else no_database(settings.data_path)
    app = bootstrap(found)
    try:
        check_current(app.database.engine)
        yield app
    finally:
        app.close()


def _elsewhere(settings: Settings) -> NoServer:
    """The server is on another machine, and this command needs more than its API."""
    return NoServer(
        "no stores", "this command works on the database and Redis themselves, not over the API",
        where=mask_text(settings.url),
        advice="run it on a host of that installation, or set TASKFLOW_DATABASE_URL and TASKFLOW_REDIS_URL to its stores",
    )  # fmt: skip


def _shown(value: object) -> str:
    if value == "":
        return "(empty)"
    return number(value) if isinstance(value, float) else str(value)
