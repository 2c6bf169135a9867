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
#: Ids of a kind that are asked for, and so offered, at most.
OFFERED_MAX = 100
_HELP_WIDTH = 60

_Found = Iterable[tuple[str, object]]
_Offers = Callable[[Any, str, click.Context], _Found]
_Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _quiet(offers: _Offers) -> _Complete:
    """``offers`` (the server's client, what was typed, the command) -> (id, what it is), bounded in time and number,
    never failing."""

    def complete(context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                return _items(offers, typed, context)
            except Exception:  # no server, no token, a setting that is wrong: a prompt is no place to say so
                return []

    return complete


def _items(offers: _Offers, typed: str, context: click.Context) -> list[CompletionItem]:
    from taskflow.cli import connection, render
    from taskflow.cli.client import Api
    from taskflow.settings import Settings

    target = connection.find(Settings.from_env())
    if target is None:
        return []
    api = Api(target, patience_s=0.0, timeout_s=TIMEOUT_S)
    try:
        found = [(name, render.clean(about)) for name, about in offers(api, typed, context) if name.startswith(typed)]
    finally:
        api.close()
    return [CompletionItem(name, help=about[:_HELP_WIDTH]) for name, about in found]


def _tasks(api: Any) -> _Found:
    page = api.tasks(limit=OFFERED_MAX)
    return [(task["id"], f"{task['status']} {task['title']}") for task in page["tasks"]]


def _runs(api: Any) -> _Found:
    page = api.runs(limit=OFFERED_MAX)
    return [(run["id"], f"{run['status']} {run['pipeline']} {run['subject'] or ''}") for run in page["runs"]]


def _nodes(api: Any) -> _Found:
    return [(node["id"], f"{node['status']} {node['provider']}") for node in api.nodes()[:OFFERED_MAX]]


_KINDS: dict[str, Callable[[Any], _Found]] = {"task-": _tasks, "run-": _runs, "node-": _nodes}


def _of(*kinds: str) -> _Complete:
    """Ids that begin with one of these; of a kind that can't be meant any more the server is not asked."""

    def offers(api: Any, typed: str, _context: click.Context) -> _Found:
        meant = [kind for kind in kinds if kind.startswith(typed) or typed.startswith(kind)]
        return [one for kind in meant for one in _KINDS[kind](api)]

    return _quiet(offers)


def _providers(api: Any, _typed: str, _context: click.Context) -> _Found:
    return [(one["name"], "") for one in api.providers()]


def _pipelines(api: Any, _typed: str, _context: click.Context) -> _Found:
    return [(one["name"], f"version {one['version']}") for one in api.pipelines()]


def _task_runs(api: Any, _typed: str, context: click.Context) -> _Found:
    task_id = context.params["task_id"] or context.args[0]  # before an option without its value it is only an argument
    page = api.task_runs(task_id, limit=OFFERED_MAX)
    return [(str(run["number"]), f"{run['id']} {run['created_at']}") for run in page["runs"]]


complete_tasks = _of("task-")
complete_runs = _of("run-")
complete_nodes = _of("node-")
#: What can be shown, cancelled and run again.
complete_subjects = _of("task-", "run-")
#: What has a history.
complete_things = _of("task-", "run-", "node-")
complete_providers = _quiet(_providers)
complete_pipelines = _quiet(_pipelines)
complete_task_runs = _quiet(_task_runs)


def complete_sweeps(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """The scheduled jobs; no server is asked."""
    from taskflow.settings import Settings
    from taskflow.words import number

    intervals = Settings().sweep_intervals()
    return [
        CompletionItem(name, help=f"every {number(s)} s") for name, s in intervals.items() if name.startswith(typed)
    ]
