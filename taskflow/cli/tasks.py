"""The commands about tasks."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import click

from taskflow.cli import connection, embedded, render, runs
from taskflow.cli.client import Api, is_run
from taskflow.cli.filters import task_query
from taskflow.cli.follow import Follower, see_through, write_log
from taskflow.cli.history import run_id_of
from taskflow.cli.many import on_each, said
from taskflow.cli.offers import complete_pipelines, complete_task_runs
from taskflow.cli.options import json_option, task_argument, thing_argument, things_argument
from taskflow.cli.pages import page_options, read, say_more
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
@things_argument
@click.option("-f", "--follow", is_flag=True, help="See it through, where it is one.")
@json_option
def rerun(ids: tuple[str, ...], follow: bool, as_json: bool) -> int:
    """Run failed or cancelled tasks, or runs of pipelines, again, from the start."""
    if follow and len(ids) > 1:
        raise click.BadParameter("one at a time can be followed", param_hint="'--follow'")
    api = connection.connect(Settings.from_env())
    if len(ids) > 1:
        return on_each(api, "rerun", ids, reason=None, as_json=as_json)
    if is_run(ids[0]):
        return runs.show_started(api, api.rerun(ids[0]), follow=follow, as_json=as_json)
    return _started(api, api.rerun(ids[0]), follow, as_json)


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
@page_options
@click.option("--runs", "of_runs", is_flag=True, help="Runs of pipelines of your own instead.")
@click.option(
    "--pipeline", metavar="NAME", help="With --runs: only of this pipeline.", shell_complete=complete_pipelines
)
@click.option("--subject", metavar="S", help="With --runs: only about this.")
@json_option
def list_tasks(
    limit: int,
    all_pages: bool,
    of_runs: bool,
    pipeline: str | None,
    subject: str | None,
    as_json: bool,
    **narrowed: Any,
) -> int:
    """List tasks, newest first: those that fit all that is said."""
    wanted, statuses = task_query(**narrowed), narrowed["status"]
    wrong = set(statuses) - set(RUN_STATUSES if of_runs else STATUSES)
    if wrong:
        what = "a run is" if of_runs else "a task is"
        raise click.BadParameter(f"{what} never {', '.join(sorted(wrong))}", param_hint="'--status'")
    if of_runs and set(wanted) - {"status"}:
        raise click.BadParameter(
            "of the others it goes with --status, --pipeline, --subject, --limit and --all", param_hint="'--runs'"
        )
    of_run_alone = {name: value for name, value in (("pipeline", pipeline), ("subject", subject)) if value is not None}
    if of_run_alone and not of_runs:
        raise click.BadParameter("tasks have none; it goes with --runs", param_hint=f"'--{next(iter(of_run_alone))}'")
    api = connection.connect(Settings.from_env())
    if of_runs:
        return runs.show_list(api, wanted | of_run_alone, limit=limit, all_pages=all_pages, as_json=as_json)
    found = read(partial(api.tasks, wanted=wanted), "tasks", limit=limit, all_pages=all_pages)
    if as_json:
        click.echo(render.to_json({"tasks": found.rows, "next_cursor": found.cursor}))
        return OK
    rows = [
        (t["id"], t["status"], t["step"], t["run_number"], render.second(t["created_at"]), t["title"])
        for t in found.rows
    ]
    click.echo(render.table(("ID", "STATUS", "STEP", "RUN", "CREATED", "TITLE"), rows) if rows else "no tasks")
    say_more(found.cursor)
    return OK


@click.command()
@thing_argument
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
@click.option(
    "--run",
    "run",
    metavar="RUN",
    shell_complete=complete_task_runs,
    help="Of an earlier run: its number or its id; taskflow runs lists them.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: number, data (base64).")
def logs(task_id: str, follow: bool, run: str | None, as_json: bool) -> int:
    """Write the output of a task's command, byte for byte."""
    if is_run(task_id):
        raise click.BadParameter("a run of a pipeline of your own has no output; taskflow show has its results")
    api = connection.connect(Settings.from_env())
    api.task(task_id)
    run_id = None if run is None else run_id_of(api, task_id, run)
    out = sys.stdout.buffer

    def write(chunk: Mapping[str, Any]) -> None:
        if as_json:
            click.echo(render.to_json_line({"number": chunk["number"], "data": chunk["data"]}))
        else:
            out.write(base64.b64decode(chunk["data"]))
            out.flush()

    write_log(api, task_id, write, run_id=run_id, follow=follow, say=lambda text: click.echo(text, err=True))
    return OK


@click.command()
@things_argument
@click.option("--reason", metavar="TEXT", help="Why; shown in its history.")
@json_option
def cancel(ids: tuple[str, ...], reason: str | None, as_json: bool) -> int:
    """Ask for the cancellation of tasks or runs: what runs is stopped, what exists is cleaned up."""
    api = connection.connect(Settings.from_env())
    if len(ids) > 1:
        return on_each(api, "cancel", ids, reason=reason, as_json=as_json)
    thing = api.cancel(ids[0], reason)
    as_document = render.to_json if is_run(ids[0]) else _as_json
    click.echo(as_document(thing) if as_json else said("cancel", thing))
    return OK


@click.command()
@thing_argument
@json_option
def why(task_id: str, as_json: bool) -> int:
    """Say what a task or run waits for, since when, until when, and what happens then."""
    found = connection.connect(Settings.from_env()).why(task_id)
    click.echo(render.to_json(found) if as_json else render.why_text(found, task_id))
    return OK


def _started(api: Api, task: dict[str, Any], follow: bool, as_json: bool) -> int:
    if follow:
        return _follow(api, task, as_json)
    click.echo(_as_json(task) if as_json else said("rerun", task))
    return OK


def _follow(api: Api, task: dict[str, Any], as_json: bool) -> int:
    """See a task through; how it ended."""
    progress = Progress(err=as_json, plain=as_json)
    follower = Follower(api, task, progress)
    task = see_through(follower, task["id"])
    if as_json:
        click.echo(_as_json(task))
    else:
        progress.line("")
        progress.line(render.result_block(task, follower.tail))
    return OK if task["status"] == "completed" else FAILED


def _as_json(task: Mapping[str, Any]) -> str:
    return render.to_json({**task, "merge_command": merge_command(task)})
