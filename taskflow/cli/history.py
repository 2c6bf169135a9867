"""What happened and who waits: the commands about events, failed attempts, the runs of a task, and the queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import click

from taskflow.cli import connection, render
from taskflow.cli.client import Api, is_run
from taskflow.cli.follow import LONGEST_PAUSE_S, Patience
from taskflow.cli.interrupts import Interrupts
from taskflow.cli.offers import complete_tasks, complete_things
from taskflow.cli.options import json_option, task_argument
from taskflow.cli.pages import page_options, read, say_more
from taskflow.cli.problems import NOT_FOUND, OK, CommandError
from taskflow.cli.stream import EventStream
from taskflow.clock import Clock, SystemClock
from taskflow.settings import Settings
from taskflow.words import compact, duration

_EVENTS_AT_ONCE = 1000
_SAID_MAX = 300


@click.command()
@click.argument("thing_id", metavar="[ID]", required=False, shell_complete=complete_things)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@page_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --follow one object a line.")
def events(thing_id: str | None, follow: bool, limit: int, all_pages: bool, as_json: bool) -> int:
    """List what happened to a task, a run of a pipeline or a node: the newest events, in their order.

    Without an ID, and with --follow: what happens to everything of yours from now on.
    """
    if thing_id is None and not follow:
        raise click.BadParameter("name a task, a run or a node, or follow everything with --follow", param_hint="'ID'")
    api = connection.connect(Settings.from_env())
    found, count = ([], 0) if thing_id is None else last_events(api, thing_id, None if all_pages else limit)
    if not follow:
        click.echo(render.to_json({"events": found}) if as_json else events_table(found) if found else "no events")
        if not as_json:
            say_more(count > len(found))
        return OK

    def show(event: Mapping[str, Any]) -> None:
        click.echo(render.to_json_line(event) if as_json else _event_line(event, with_subject=thing_id is None))

    for event in found:
        show(event)
    after = "now" if thing_id is None else str(found[-1]["seq"] if found else 0)
    with Interrupts():  # a kill ends it as Ctrl-C does
        watch(api, thing_id, after, show)
    return OK


@click.command()
@click.argument("task_id", metavar="[TASK]", required=False, shell_complete=complete_tasks)
@click.option("--step", metavar="NAME", help="Only of this step.")
@click.option("--code", metavar="CODE", help="Only with this code.")
@page_options
@json_option
def errors(task_id: str | None, limit: int, all_pages: bool, as_json: bool, **wanted: str | None) -> int:
    """List the attempts of steps that failed, newest first: of a task, or of all tasks, nodes and runs of pipelines.

    A command that ran and ended with another status than 0 is none: its step did what it had to. Tasks that failed are
    listed by "taskflow list --status failed".
    """
    if task_id is not None and is_run(task_id):
        raise click.BadParameter("it is of a task; those of runs are among all, without an ID", param_hint="'TASK'")
    api = connection.connect(Settings.from_env())
    found = read(partial(api.errors, task_id, wanted), "errors", limit=limit, all_pages=all_pages)
    if as_json:
        click.echo(render.to_json({"errors": found.rows, "next_cursor": found.cursor}))
        return OK
    rows = [
        (
            render.second(one["at"]), _subject(one), one["step"], one["attempt"], one["code"],
            duration(one["retry_in_s"]), one["message"],
        )
        for one in found.rows
    ]  # fmt: skip
    headers = ("AT", "SUBJECT", "STEP", "ATTEMPT", "CODE", "AGAIN IN", "MESSAGE")
    instead = f"show {task_id}" if task_id else "list --status failed"
    none = f"no failed attempts of steps; what became of tasks: taskflow {instead}"
    click.echo(render.table(headers, rows) if rows else none)
    say_more(found.cursor)
    return OK


@click.command()
@page_options
@json_option
def queue(limit: int, all_pages: bool, as_json: bool) -> int:
    """List the tasks that wait for capacity, in the order in which they are served, and for what each waits."""
    api = connection.connect(Settings.from_env())
    found = read(api.queue, "waiting", limit=limit, all_pages=all_pages)
    count = found.page["count"]
    if as_json:
        click.echo(render.to_json({"waiting": found.rows, "count": count, "next_cursor": found.cursor}))
        return OK
    rows = [
        (
            one["place"], one["task_id"], one["priority"], duration(one["waited_s"]), one["project"] or None,
            one["reason"],
        )
        for one in found.rows
    ]  # fmt: skip
    headers = ("PLACE", "TASK", "PRIORITY", "WAITED", "PROJECT", "WAITS FOR")
    click.echo(render.table(headers, rows) if rows else "nobody waits")
    if found.cursor:
        click.echo(f"{count} wait: --all", err=True)
    return OK


@click.command("runs")
@task_argument
@page_options
@json_option
def task_runs(task_id: str, limit: int, all_pages: bool, as_json: bool) -> int:
    """List the runs of a task, the last one first. Each rerun is one; JSON has the steps that each went through."""
    _refuse_run(task_id)
    api = connection.connect(Settings.from_env())
    found = read(partial(api.task_runs, task_id), "runs", limit=limit, all_pages=all_pages)
    if as_json:
        click.echo(render.to_json({"runs": found.rows, "next_cursor": found.cursor}))
        return OK
    rows = [
        (
            one["number"], one["id"], render.second(one["created_at"]), duration(one["duration_s"]),
            one["steps"][-1]["step"] if one["steps"] else None, _end(one),
        )
        for one in found.rows
    ]  # fmt: skip
    click.echo(render.table(("RUN", "ID", "BEGAN", "TOOK", "STEP", "HOW IT ENDED"), rows) if rows else "no runs")
    say_more(found.cursor)
    return OK


def run_id_of(api: Api, task_id: str, said: str) -> str:
    """The id of a run of a task that is named by its number or its id. Raises ``CommandError`` when it has none such."""
    found = read(partial(api.task_runs, task_id), "runs", limit=1, all_pages=True)
    for run in found.rows:
        if said in (run["id"], str(run["number"])):
            return str(run["id"])
    raise CommandError(
        "no such run",
        f"{task_id} has no run {said}",
        exit_code=NOT_FOUND,
        advice=f"they are in: taskflow runs {task_id}",
    )


def last_events(api: Api, thing_id: str, most: int | None) -> tuple[list[dict[str, Any]], int]:
    """The newest ``most`` events (None: all) of a task, run or node, in order, and how many there are."""
    kept: deque[dict[str, Any]] = deque(maxlen=most)
    after, count = 0, 0
    while events := (page := api.events(thing_id, after, limit=_EVENTS_AT_ONCE))["events"]:
        kept.extend(events)
        count += len(events)
        after = int(page["next"])
    return list(kept), count


def watch(
    api: Api, thing_id: str | None, after: str, show: Callable[[Mapping[str, Any]], None], clock: Clock | None = None
) -> None:
    """Show each event after a place as it comes, over restarts of the server, for ever. Raises ``NoServer`` when it
    stays away."""
    clock = clock or SystemClock()
    patience = Patience(api, clock, lambda text: click.echo(f"  {text}", err=True))
    api.patience_s = 0.0  # retrying is done here, where it is seen
    stream: EventStream | None = None
    while True:
        try:
            stream = stream or EventStream(api, thing_id, after, clock=clock)
            patience.answered()
            patience.looked()
            stream.wait(LONGEST_PAUSE_S)
            while event := stream.take():
                show(event)
            after = stream.after
        except CommandError as error:
            after = stream.after if stream else after
            stream = None
            patience.bear(error)
            clock.sleep(LONGEST_PAUSE_S)


def events_table(events: Iterable[Mapping[str, Any]]) -> str:
    """Events as lines, in their order; of what says much the beginning."""
    rows = [(render.second(one["at"]), one["kind"], one["step"], one["actor"], _said(one)) for one in events]
    return render.table(("AT", "WHAT", "STEP", "BY", "SAYS"), rows)


def _event_line(event: Mapping[str, Any], *, with_subject: bool) -> str:
    """An event in a line of its own, before it is known how wide the others are."""
    said = [render.second(event["at"]), f"{event['kind']:<18}", f"{event['step'] or '-':<20}", event["actor"]]
    if with_subject:
        said.insert(1, f"{_subject(event):<31}")
    return render.clean("  ".join([*map(str, said), _said(event)])).rstrip()


def _said(event: Mapping[str, Any]) -> str:
    """What an event says, in one line: an agent's log would fill the screen. ``--json`` has all of it."""
    text = compact(event["data"] or {})
    return text if len(text) <= _SAID_MAX else f"{text[:_SAID_MAX]}..."


def _refuse_run(task_id: str) -> None:
    if is_run(task_id):
        raise click.BadParameter(
            "it is a run itself; runs of pipelines of your own are listed by: taskflow list --runs", param_hint="'ID'"
        )


def _subject(one: Mapping[str, Any]) -> str:
    """What a failure or an event is about, by the id that other commands take: an own run's subject has none."""
    is_own = one["subject_kind"] == "own" or not one["subject_id"]
    return str(one["run_id"] if is_own else one["subject_id"])


def _end(run: Mapping[str, Any]) -> str:
    if run["error"]:
        return str(run["error"].get("message"))
    if run["finished_at"] is None:
        return "it goes on"
    if run["cancel_requested_at"]:
        return f"cancelled: {run['cancel_reason']}" if run["cancel_reason"] else "cancelled"
    return "in order"
