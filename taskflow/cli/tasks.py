"""The commands about tasks."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from taskflow.cli import connection, embedded, render, runs
from taskflow.cli.client import Api, is_run
from taskflow.cli.filters import task_query
from taskflow.cli.follow import Follower, write_log
from taskflow.cli.interrupts import Interrupts
from taskflow.cli.options import json_option, task_argument
from taskflow.cli.problems import EXIT_CODES, FAILED, OK
from taskflow.cli.render import Progress
from taskflow.cli.repository import merge_command
from taskflow.cli.running import Run, warn_about
from taskflow.cli.spec import build, task_options
from taskflow.db.status import RUN_STATUSES, STATUSES
from taskflow.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

#: What follows the first word that is no option belongs to the user's command, dashes and all.
_COMMAND_LAST = {"allow_interspersed_args": False}


@click.command(context_settings=_COMMAND_LAST, epilog=EXIT_CODES)
@task_options
@json_option
def run(as_json: bool, **options: Any) -> int:
    """Run COMMAND in a clone of a repository and see it through.

    Uses the stack that serves the data directory (or TASKFLOW_URL); when there is none, starts one for as long as the
    task takes. Ends with the task's outcome. The first Ctrl-C cancels the task and waits for the cleanup, a second one
    leaves it as it is.
    """
    settings = Settings.from_env()
    embedded.configure_logs(settings)
    return Run(settings, build(options), as_json=as_json).call()


@click.command(context_settings=_COMMAND_LAST, epilog=EXIT_CODES)
@task_options
@click.option("--draft", is_flag=True, help="Don't start it; taskflow run-draft does.")
@click.option("-f", "--follow", is_flag=True, help="See it through.")
@json_option
def submit(as_json: bool, draft: bool, follow: bool, **options: Any) -> int:
    """Submit a task and print its id."""
    if draft and follow:
        raise click.BadParameter("a draft is not under way", param_hint="'--follow'")
    submission = build(options, start=not draft)
    api = connection.connect(Settings.from_env())
    warn_about(submission, api.target, Progress())
    task = api.submit(submission.spec)
    if follow:
        if not as_json:
            click.echo(task["id"])
        return _follow(api, task, as_json)
    click.echo(render.to_json(task) if as_json else task["id"])
    return OK


@click.command("run-draft")
@task_argument
@click.option("-f", "--follow", is_flag=True, help="See it through.")
@json_option
def run_draft(task_id: str, follow: bool, as_json: bool) -> int:
    """Start a draft."""
    api = connection.connect(Settings.from_env())
    return _started(api, api.run_draft(task_id), follow, as_json)


@click.command()
@task_argument
@click.option("-f", "--follow", is_flag=True, help="See it through.")
@json_option
def rerun(task_id: str, follow: bool, as_json: bool) -> int:
    """Run a failed or cancelled task, or run of a pipeline, again, from the start."""
    api = connection.connect(Settings.from_env())
    if is_run(task_id):
        return runs.show_started(api, api.rerun(task_id), follow=follow, as_json=as_json)
    return _started(api, api.rerun(task_id), follow, as_json)


@click.command("list")
@click.option(
    "--status",
    multiple=True,
    type=click.Choice(tuple(dict.fromkeys((*STATUSES, *RUN_STATUSES)))),
    help="Only these; running and waiting are of runs. Repeatable.",
)
@click.option("--project", metavar="NAME", help="Only those of this project.")
@click.option("--step", metavar="NAME", help="Only those whose open run is at this step.")
@click.option("--node", metavar="ID", help="Only those that are or were on this node.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="Only those with this label. Repeatable.")
@click.option("--text", metavar="TEXT", help="Only those with this in title, id or repository.")
@click.option(
    "--since",
    metavar="TIME",
    help="Only those submitted then or later: a length of time back (30m, 12h, 7d), or a point in time.",
)
@click.option("--before", metavar="TIME", help="Only those submitted before.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many.")
@click.option("--all", "all_pages", is_flag=True, help="All of them.")
@click.option("--runs", "of_runs", is_flag=True, help="Runs of pipelines of your own instead.")
@json_option
def list_tasks(limit: int, all_pages: bool, of_runs: bool, as_json: bool, **narrowed: Any) -> int:
    """List tasks, newest first: those that fit all that is said."""
    wanted, statuses = task_query(**narrowed), narrowed["status"]
    wrong = set(statuses) - set(RUN_STATUSES if of_runs else STATUSES)
    if wrong:
        what = "a run is" if of_runs else "a task is"
        raise click.BadParameter(f"{what} never {', '.join(sorted(wrong))}", param_hint="'--status'")
    if of_runs and set(wanted) - {"status"}:
        raise click.BadParameter("of the others it goes with --status, --limit and --all", param_hint="'--runs'")
    api = connection.connect(Settings.from_env())
    if of_runs:
        return runs.show_list(api, statuses, limit=None if all_pages else limit, as_json=as_json)
    page = api.tasks(wanted=wanted, limit=200 if all_pages else limit)
    tasks, cursor = list(page["tasks"]), page["next_cursor"]
    while all_pages and cursor:
        page = api.tasks(wanted=wanted, limit=200, cursor=cursor)
        tasks += page["tasks"]
        cursor = page["next_cursor"]
    if as_json:
        click.echo(render.to_json({"tasks": tasks, "next_cursor": cursor}))
        return OK
    rows = [
        (t["id"], t["status"], t["step"], t["run_number"], render.second(t["created_at"]), t["title"]) for t in tasks
    ]
    click.echo(render.table(("ID", "STATUS", "STEP", "RUN", "CREATED", "TITLE"), rows) if rows else "no tasks")
    if cursor:
        click.echo("there are more: --all", err=True)
    return OK


@click.command()
@task_argument
@click.option("-f", "--follow", is_flag=True, help="See it through; ends with its outcome.")
@json_option
def show(task_id: str, follow: bool, as_json: bool) -> int:
    """Show a task, or a run of a pipeline."""
    api = connection.connect(Settings.from_env())
    task = api.task(task_id)
    if is_run(task_id):
        return runs.show(api, task, follow=follow, as_json=as_json)
    if follow and task["status"] != "draft":
        return _follow(api, task, as_json)
    click.echo(_as_json(task) if as_json else render.task_details(task))
    return OK


@click.command()
@task_argument
@click.option("-f", "--follow", is_flag=True, help="Until the command is over.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: number, data (base64).")
def logs(task_id: str, follow: bool, as_json: bool) -> int:
    """Write the output of a task's command, byte for byte."""
    if is_run(task_id):
        raise click.BadParameter("a run of a pipeline of your own has no output; taskflow show has its results")
    api = connection.connect(Settings.from_env())
    api.task(task_id)
    out = sys.stdout.buffer

    def write(chunk: Mapping[str, Any]) -> None:
        if as_json:
            click.echo(render.to_json_line({"number": chunk["number"], "data": chunk["data"]}))
        else:
            out.write(base64.b64decode(chunk["data"]))
            out.flush()

    write_log(api, task_id, write, follow=follow, say=lambda text: click.echo(text, err=True))
    return OK


@click.command()
@task_argument
@click.option("--reason", metavar="TEXT", help="Why; shown in its history.")
@json_option
def cancel(task_id: str, reason: str | None, as_json: bool) -> int:
    """Ask for the cancellation of a task or run: what runs is stopped, what exists is cleaned up."""
    task = connection.connect(Settings.from_env()).cancel(task_id, reason)
    if is_run(task_id):
        click.echo(render.to_json(task) if as_json else f"{task['id']}: cancel requested; it is {task['status']}")
        return OK
    said = "cancelled" if task["status"] == "cancelled" else f"cancel requested; it is {task['status']}"
    click.echo(_as_json(task) if as_json else f"{task['id']}: {said}")
    return OK


@click.command()
@task_argument
@json_option
def why(task_id: str, as_json: bool) -> int:
    """Say what a task or run waits for, since when, until when, and what happens then."""
    found = connection.connect(Settings.from_env()).why(task_id)
    click.echo(render.to_json(found) if as_json else render.why_text(found))
    return OK


def _started(api: Api, task: dict[str, Any], follow: bool, as_json: bool) -> int:
    if follow:
        return _follow(api, task, as_json)
    click.echo(_as_json(task) if as_json else f"{task['id']}: run {task['run_number']} is {task['status']}")
    return OK


def _follow(api: Api, task: dict[str, Any], as_json: bool) -> int:
    """See a task through without owning it: Ctrl-C ends the following, not the task."""
    progress = Progress(err=as_json, plain=as_json)
    follower = Follower(api, task, progress)
    try:
        with Interrupts():  # a kill ends it as Ctrl-C does, with the cursor shown again
            task = follower.run()
    except KeyboardInterrupt:
        click.echo(f"{task['id']} goes on; look at it with: taskflow show -f {task['id']}", err=True)
        raise
    if as_json:
        click.echo(_as_json(task))
    else:
        progress.line("")
        progress.line(render.result_block(task, follower.tail))
    return OK if task["status"] == "completed" else FAILED


def _as_json(task: Mapping[str, Any]) -> str:
    return render.to_json({**task, "merge_command": merge_command(task)})
