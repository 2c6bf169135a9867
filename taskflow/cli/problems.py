"""What goes wrong on the command line: exit codes, errors that carry one, and how they are printed."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from typing import Any

import click

from taskflow.errors import NotFound, TaskflowError, UsageError
from taskflow.logs import mask_text

OK = 0
FAILED = 1
USAGE = 2
NO_SERVER = 3
NOT_FOUND = 4
INTERRUPTED = 130

EXIT_CODES = """\b
Exit codes:
    0  done; of a task that was run or followed (-f): it completed
    1  such a task failed or was cancelled, or the command could not be carried out
    2  the command line is wrong, or the server refused the input
    3  no server: nothing serves the data directory, or TASKFLOW_URL does not answer
    4  no such task, node or token
  130  interrupted"""

#: A field of the API -> how the same thing is called on the command line.
OPTION_OF_FIELD = {
    "repository": "--repo",
    "branch": "--branch",
    "command": "COMMAND",
    "setup_command": "--setup",
    "env": "--env",
    "secrets": "--secret",
    "push": "--no-push",
    "time_limit_s": "--time-limit",
    "title": "--title",
    "labels": "--label",
    "node_id": "--node",
    "allow_node_fallback": "--or-other-node",
    "priority": "--priority",
    "start": "--draft",
    "status": "--status",
    "limit": "--limit",
    "reason": "--reason",
    "expires_s": "--expires",
    "owner": "--owner",
    "month": "--month",
    "nodes_max": "--nodes",
    "running_tasks_max": "--running-tasks",
    "node_workspaces_max": "--node-workspaces",
    "vcpu_hours_max": "--vcpu-hours",
    "budget": "--budget",
    "node_loss_reruns": "--node-loss-reruns",
    "project": "--project",
}


class CommandError(TaskflowError):
    """A command could not be carried out: ``what`` failed, ``where``, and why. ``exit_code`` is the process' own."""

    def __init__(
        self,
        what: str,
        why: str,
        *,
        where: str | None = None,
        fields: Mapping[str, Any] | None = None,
        exit_code: int = FAILED,
        status: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(f"{what}{f' ({where})' if where else ''}: {why}", **kwargs)
        self.why = why
        self.fields = dict(fields or {})
        self.exit_code = exit_code
        self.status = status


class NoServer(CommandError):
    """Nobody answers, or somebody who says that it is not the time: whoever waits may ask again."""

    code = "no_server"

    def __init__(self, what: str, why: str, *, exit_code: int = NO_SERVER, **kwargs: Any) -> None:
        super().__init__(what, why, exit_code=exit_code, **kwargs)


def no_stack(data_dir: object) -> NoServer:
    """Nothing serves this data directory."""
    return NoServer(
        "no server",
        "no stack is running here",
        where=str(data_dir),
        advice="start one with: taskflow up    or name another with TASKFLOW_URL and TASKFLOW_TOKEN",
    )


def no_database(data_dir: object) -> NoServer:
    """This data directory has no database, and no setting names one."""
    return NoServer(
        "no database",
        "there is none here, and TASKFLOW_DATABASE_URL names none",
        where=str(data_dir),
        advice="is TASKFLOW_DATA_DIR right? a new database is made by: taskflow db upgrade",
    )


def exit_code_of(error: BaseException) -> int:
    """The exit code that ``error`` ends the process with."""
    if isinstance(error, CommandError):
        return error.exit_code
    if isinstance(error, NotFound):
        return NOT_FOUND
    if isinstance(error, UsageError) and error.http_status == 400:
        return USAGE
    if isinstance(error, click.ClickException):
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return INTERRUPTED
    return FAILED


def report(error: BaseException) -> int:
    """Print ``error`` on standard error, without a traceback unless TASKFLOW_LOG_LEVEL=DEBUG. Its exit code."""
    if os.environ.get("TASKFLOW_LOG_LEVEL", "").upper() == "DEBUG" and not isinstance(error, click.ClickException):
        click.echo(mask_text("".join(traceback.format_exception(error))), err=True, nl=False)
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        click.echo("interrupted", err=True)
    elif isinstance(error, click.UsageError):
        context = error.ctx
        click.echo(f"error: {error.format_message()}", err=True)
        if context is not None:
            click.echo(f"  see: {context.command_path} --help", err=True)
    elif isinstance(error, click.ClickException):
        click.echo(f"error: {error.format_message()}", err=True)
    elif isinstance(error, TaskflowError):
        _print(error)
    else:
        click.echo(f"error: {mask_text(str(error)) or type(error).__name__} ({type(error).__name__})", err=True)
        click.echo("  set TASKFLOW_LOG_LEVEL=DEBUG to see where it happened", err=True)
    return exit_code_of(error)


def _print(error: TaskflowError) -> None:
    from taskflow.cli.render import clean_lines  # here: most commands end without an error

    click.echo(f"error: {clean_lines(mask_text(error.message))}", err=True)
    if error.advice:
        click.echo(f"  {clean_lines(error.advice)}", err=True)
    if exit_code_of(error) == NOT_FOUND:
        return  # the line above names what there is not; the field has nothing to add
    for name, text in getattr(error, "fields", {}).items():
        if str(name) in error.message and _text(text) in error.message:
            continue
        click.echo(f"  {clean_lines(f'{_option_name(str(name))}: {_text(text)}')}", err=True)


def _option_name(field: str) -> str:
    head, _, rest = field.partition(".")
    option = OPTION_OF_FIELD.get(head)
    return field if option is None else f"{option} {rest}".strip()


def _text(found: object) -> str:
    return " ".join(str(one) for one in found) if isinstance(found, (list, tuple)) else str(found)
