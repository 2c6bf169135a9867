"""What a shell offers for an id or a name. Silent: whatever goes wrong offers nothing."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

#: Somebody waits at a prompt: a server that takes longer than this, in seconds, offers nothing.
TIMEOUT_S = 1.0
#: Ids that are asked for, and so offered, at most.
OFFERED_MAX = 100
_HELP_WIDTH = 60

_Offers = Callable[[Any], Iterable[tuple[str, object]]]
_Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _quiet(offers: _Offers) -> _Complete:
    """``offers`` (the server's client) -> (id, what it is), bounded in time and number, never failing."""

    def complete(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                return _items(offers, typed)
            except Exception:  # no server, no token, a setting that is wrong: a prompt is no place to say so
                return []

    return complete


def _items(offers: _Offers, typed: str) -> list[CompletionItem]:
    from taskflow.cli import connection, render
    from taskflow.cli.client import Api
    from taskflow.settings import Settings

    target = connection.find(Settings.from_env())
    if target is None:
        return []
    api = Api(target, patience_s=0.0, timeout_s=TIMEOUT_S)
    try:
        found = [(name, render.clean(about)) for name, about in offers(api) if name.startswith(typed)]
    finally:
        api.close()
    return [CompletionItem(name, help=about[:_HELP_WIDTH]) for name, about in found[:OFFERED_MAX]]


def _tasks(api: Any) -> Iterable[tuple[str, object]]:
    page = api.tasks(limit=OFFERED_MAX)
    return [(task["id"], f"{task['status']} {task['title']}") for task in page["tasks"]]


def _nodes(api: Any) -> Iterable[tuple[str, object]]:
    return [(node["id"], f"{node['status']} {node['provider']}") for node in api.nodes()]


def _providers(api: Any) -> Iterable[tuple[str, object]]:
    return [(one["name"], "") for one in api.providers()]


complete_tasks = _quiet(_tasks)
complete_nodes = _quiet(_nodes)
complete_providers = _quiet(_providers)


def complete_sweeps(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """The scheduled jobs; no server is asked."""
    from taskflow.settings import Settings
    from taskflow.words import number

    intervals = Settings().sweep_intervals()
    return [
        CompletionItem(name, help=f"every {number(s)} s") for name, s in intervals.items() if name.startswith(typed)
    ]
