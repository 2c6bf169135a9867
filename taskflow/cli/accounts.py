"""The commands about who asks: signing a browser in, who one is, tokens, and the audit trail."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from taskflow.cli import connection, render
from taskflow.cli.client import PAGE, Api
from taskflow.cli.operate import database_app
from taskflow.cli.options import json_option
from taskflow.cli.pages import read, say_more
from taskflow.cli.problems import OK, USAGE, CommandError
from taskflow.db.roles import ROLES
from taskflow.settings import Settings

if TYPE_CHECKING:  # the command line starts without the stores
    from taskflow.bootstrap import App


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


@click.group()
def token() -> None:
    """API tokens. With TASKFLOW_URL those of the owner of TASKFLOW_TOKEN, which has to be an admin's; on a host of the
    installation those of all owners, on the database itself."""


@token.command("create")
@click.option("--name", required=True, metavar="NAME", help="What it is for.")
@click.option(
    "--owner", metavar="NAME", help="Whose tasks it acts for. Default: default; with TASKFLOW_URL yours, and no other."
)
@click.option("--role", type=click.Choice(ROLES), default="admin", show_default=True, help="What it may do.")
@click.option("--expires", "expires_s", type=float, metavar="S", help="Seconds it is valid. Default: until revoked.")
@json_option
def create_token(name: str, owner: str | None, role: str, expires_s: float | None, as_json: bool) -> int:
    """Make a token. It is shown this once.

    A viewer reads; an operator also submits, stops and drains; an admin also orders and destroys nodes, and makes and
    revokes the owner's tokens.
    """
    settings = Settings.from_env()
    if connection.over_api(settings):
        made = _made_over_api(connection.connect(settings), name, owner, role, expires_s)
    else:
        with database_app() as app:
            whose = {} if owner is None else {"owner": owner}
            made = app.service.accounts.create_token(name=name, expires_s=expires_s, role=role, **whose)
    click.echo(render.to_json(made) if as_json else made["token"])
    return OK


def _made_over_api(api: Api, name: str, owner: str | None, role: str, expires_s: float | None) -> dict[str, Any]:
    if expires_s is not None and not math.isfinite(expires_s):  # JSON has no word for it
        raise _refused("that is no time for a token", {"expires_s": "must be a number of seconds"})
    if owner is not None and owner != (own := api.whoami()["owner"]):
        raise _refused(
            f"TASKFLOW_TOKEN is of {own}, and makes tokens of {own} alone", {"owner": "is another owner"},
            advice="those of others are made on a host of the installation",
        )  # fmt: skip
    return api.create_token({"name": name, "role": role, "expires_s": expires_s})


def _refused(why: str, fields: dict[str, str], advice: str | None = None) -> CommandError:
    return CommandError("no token was made", why, fields=fields, exit_code=USAGE, advice=advice)


@token.command("list")
@json_option
def list_tokens(as_json: bool) -> int:
    """List tokens, without the tokens themselves."""
    settings = Settings.from_env()
    if connection.over_api(settings):
        api = connection.connect(settings)
        owner = api.whoami()["owner"]
        found = [{**one, "owner": owner} for one in api.tokens()]
    else:
        with database_app() as app:
            found = app.service.accounts.list_tokens()
    if as_json:
        click.echo(render.to_json({"tokens": found}))
        return OK
    columns = ("id", "name", "owner", "role", "created_at", "last_used_at", "expires_at", "revoked_at")
    rows = [tuple(one[name] for name in columns) for one in found]
    headers = [name.removesuffix("_at").replace("_", " ").upper() for name in columns]
    click.echo(render.table(headers, rows) if rows else "no tokens")
    return OK


@token.command("revoke")
@click.argument("token_id", metavar="ID")
@json_option
def revoke_token(token_id: str, as_json: bool) -> int:
    """Revoke a token, from now on and for good."""
    settings = Settings.from_env()
    if connection.over_api(settings):
        connection.connect(settings).revoke_token(token_id)
    else:
        with database_app() as app:
            app.service.accounts.revoke_token(token_id)
    click.echo(render.to_json({"id": token_id, "revoked": True}) if as_json else f"{token_id}: revoked")
    return OK


@click.command()
@click.option("--limit", type=click.IntRange(1, PAGE), default=50, show_default=True, metavar="N", help="Lines.")
@click.option("--all", "all_pages", is_flag=True, help="Every line there is.")
@click.option(
    "--all-owners",
    is_flag=True,
    help="Of all owners, with the failed sign-ins of nobody: read from the database itself, for who operates it.",
)
@json_option
def audit(limit: int, all_pages: bool, all_owners: bool, as_json: bool) -> int:
    """List who asked for which change, and what came of it, newest first. Needs an admin's token."""
    if all_owners:
        with database_app() as app:
            found = read(partial(_page_of_all, app), "lines", limit=limit, all_pages=all_pages)
    else:
        api = connection.connect(Settings.from_env())
        found = read(api.audit, "lines", limit=limit, all_pages=all_pages)
    if as_json:
        click.echo(render.to_json({"lines": found.rows, "next_cursor": found.cursor}))
        return OK
    rows = [
        (one["at"], one["actor"], one["action"], one["subject_id"], one["outcome"], _facts(one)) for one in found.rows
    ]
    click.echo(render.table(("AT", "ACTOR", "ACTION", "SUBJECT", "OUTCOME", "FACTS"), rows) if rows else "no lines")
    say_more(found.cursor)
    return OK


def _page_of_all(app: App, *, limit: int, cursor: str | None) -> dict[str, Any]:
    lines, following = app.service.audit.page_of_all(limit=limit, cursor=cursor)
    return {"lines": lines, "next_cursor": following}


def _facts(line: dict[str, Any]) -> str:
    facts = {name: ",".join(value) if isinstance(value, list) else value for name, value in line["data"].items()}
    return " ".join(f"{name}={value}" for name, value in facts.items())
