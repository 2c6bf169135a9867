"""``taskflow doctor``: what could be lost, doubled or delayed here, and a demonstration of what happens when it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from taskflow.cli import connection, render
from taskflow.cli.operate import stores_app
from taskflow.cli.options import json_option
from taskflow.cli.problems import FAILED, OK
from taskflow.settings import Settings
from taskflow.words import duration

_ORDER = ("error", "warning", "ok")


@click.command()
@click.option(
    "--demonstrate", is_flag=True,
    help="Prove it on a scratch installation instead, within about a minute: kill, empty, lose and repeat, and measure.",
)  # fmt: skip
@json_option
def doctor(demonstrate: bool, as_json: bool) -> int:
    """Say what could be lost, doubled or delayed here, for how long, and what to do.

    Ends with 1 when something is broken. --demonstrate touches nothing of this installation.
    """
    if demonstrate:
        from taskflow.cli import demonstration

        return demonstration.show(as_json=as_json)
    from taskflow.broker import CeleryPublisher
    from taskflow.service.doctor import Doctor

    with stores_app() as app:
        found = Doctor(
            app.database, app.control, app.service.health, app.tools.catalogue, app.settings,
            celery_app=CeleryPublisher(app.settings).application(), callback_url=callback_url(app.settings),
        ).examine()  # fmt: skip
    click.echo(render.to_json({"checks": found}) if as_json else findings_text(found))
    return FAILED if any(one["state"] == "error" for one in found) else OK


def callback_url(settings: Settings) -> str:
    """Where nodes report to: what is set, else the stack that serves here, else the web process of this host."""
    if settings.public_url:
        return settings.public_url
    info = connection.serving(settings)
    host = "127.0.0.1" if settings.host in ("", "0.0.0.0", "::") else settings.host  # noqa: S104 - compared, not bound
    return info.url if info is not None else f"http://{host}:{settings.port}"


def findings_text(found: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong, worst first, each with its consequence and what to do; then a line for each check that is well."""
    worst_first = sorted(found, key=lambda one: _ORDER.index(one["state"]))
    parts = [_finding_text(one) for one in worst_first if one["state"] != "ok"]
    well = [(one["check"], one["says"]) for one in worst_first if one["state"] == "ok"]
    if well:
        parts.append(render.table(("OK", "SAYS"), well))
    return "\n\n".join(parts)


def _finding_text(one: Mapping[str, Any]) -> str:
    facts = render.pairs([("what", one["says"]), (one["risk"], _consequence(one)), ("do", one["advice"])])
    return f"{one['state'].upper()}  {render.clean(one['check'])}\n{facts}"


def _consequence(one: Mapping[str, Any]) -> str:
    if not one["consequence"]:
        return ""
    if one["at_most_s"] is not None:
        return f"at most {duration(one['at_most_s'])}: {one['consequence']}"
    return f"until it is mended: {one['consequence']}" if one["risk"] == "delayed" else str(one["consequence"])
