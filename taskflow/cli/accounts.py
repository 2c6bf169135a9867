"""The commands about who asks: signing a browser in, who one is, and the audit trail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from taskflow.cli import connection, render
from taskflow.cli.client import Api
from taskflow.cli.operate import database_app
from taskflow.cli.options import json_option
from taskflow.cli.problems import OK
from taskflow.settings import Settings

_PAGE = 200


@click.command()
@json_option
def login(as_json: bool) -> int:
    """Print a link that signs a browser in with the rights of this token: once, and soon."""
    api = connection.connect(Settings.from_env())
    made = api.sign_in_link()
    url = sign_in_url(api, made)
    click.echo(render.to_json({"url": url, "expires_at": made["expires_at"]}) if as_json else url)
    return OK


def sign_in_url(api: Api, made: dict[str, Any]) -> str:
    """The address of a sign-in link."""
    return f"{api.target.url.rstrip('/')}{made['path']}"


@click.command()
@json_option
def whoami(as_json: bool) -> int:
    """Say whose token this is, and what it may do."""
    found = connection.connect(Settings.from_env()).whoami()
    rows = [(name, found[key]) for name, key in _WHO]
    click.echo(render.to_json(found) if as_json else render.pairs(rows, indent=""))
    return OK


_WHO = (("owner", "owner"), ("token", "name"), ("id", "token_id"), ("role", "role"), ("expires", "expires_at"))


@click.command()
@click.option("--limit", type=click.IntRange(1, _PAGE), default=50, show_default=True, metavar="N", help="Lines.")
@click.option("--all", "all_pages", is_flag=True, help="Every line there is.")
@click.option(
    "--all-owners",
    is_flag=True,
    help="Of all owners, with the failed sign-ins of nobody: read from the database itself, for who operates it.",
)
@json_option
def audit(limit: int, all_pages: bool, all_owners: bool, as_json: bool) -> int:
    """List who asked for which change, and what came of it, newest first. Needs an admin's token."""
    size = _PAGE if all_pages else limit
    if all_owners:
        with database_app() as app:
            lines, more = _lines(lambda cursor: app.service.audit.page_of_all(limit=size, cursor=cursor), all_pages)
    else:
        api = connection.connect(Settings.from_env())
        lines, more = _lines(lambda cursor: api.audit(limit=size, cursor=cursor), all_pages)
    if as_json:
        click.echo(render.to_json({"lines": lines}))
        return OK
    rows = [(one["at"], one["actor"], one["action"], one["subject_id"], one["outcome"], _facts(one)) for one in lines]
    click.echo(render.table(("AT", "ACTOR", "ACTION", "SUBJECT", "OUTCOME", "FACTS"), rows) if rows else "no lines")
    if more:
        click.echo("there are more: --all", err=True)
    return OK


def _lines(page: Callable[[str | None], tuple[Any, str | None]], all_pages: bool) -> tuple[list[Any], bool]:
    found, cursor = page(None)
    lines = list(found)
    while all_pages and cursor:
        found, cursor = page(cursor)
        lines += found
    return lines, cursor is not None


def _facts(line: dict[str, Any]) -> str:
    facts = {name: ",".join(value) if isinstance(value, list) else value for name, value in line["data"].items()}
    return " ".join(f"{name}={value}" for name, value in facts.items())
