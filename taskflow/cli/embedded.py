"""The embedded stack as the command line runs it: its API token, what it says while it starts, its orderly end."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Callable

from taskflow import logs
from taskflow.cli.client import Api
from taskflow.cli.render import Progress
from taskflow.cli.transport import Target
from taskflow.errors import TaskflowError
from taskflow.settings import Settings
from taskflow.stack.data_dir import StackInfo
from taskflow.stack.keeper import OnEvent, StackEvent
from taskflow.stack.supervisor import Supervisor
from taskflow.words import duration

#: Whom the dashboard says to be signed in by the stack's own link: short, for a phone, and no name that a person gives.
TOKEN_NAME = "taskflow up"  # noqa: S105 - a name
#: What a stack of release 0.1.0 called it.
_FORMER_TOKEN_NAME = "cli (embedded)"  # noqa: S105 - a name
NODES_GONE_S = 30.0


def configure_logs(settings: Settings) -> None:
    """Logging of a command: what it has to say is its output, so log lines are errors only, unless DEBUG is asked for."""
    level = "DEBUG" if settings.log_level.upper() == "DEBUG" else "ERROR"
    logs.configure(dataclasses.replace(settings, log_level=level))


def make_supervisor(settings: Settings, progress: Progress, *, with_flower: bool) -> Supervisor:
    """A supervisor that says on ``progress`` how its processes fare and makes a token for the command line.

    Raises ``UsageError`` for a pipeline that no process of it could use.
    """
    from taskflow.pipelines import registry  # here: most commands need no pipelines

    registry.check(settings)
    supervisor = Supervisor(settings, with_flower=with_flower, on_event=process_lines(progress))
    shared = bool(settings.database_url)
    supervisor.make_token = lambda: make_token(supervisor.settings, shared=shared)
    return supervisor


def for_one_task(settings: Settings) -> Settings:
    """The settings of a stack that lives for one command: whatever ports are free, reached from here only."""
    return dataclasses.replace(settings, port=0, flower_port=0, flower_url="", public_url="", host="127.0.0.1")


def make_token(settings: Settings, *, shared: bool) -> str:
    """A new token of the default owner; those of earlier starts are revoked. Who is signed in with one of them stays so.

    ``shared``: the database serves other machines too, so the name says whose token it is.
    """
    from taskflow.bootstrap import bootstrap  # here: most commands need no store

    place = f" {socket.gethostname()}:{settings.data_path}" if shared else ""
    name, names = TOKEN_NAME + place, (TOKEN_NAME + place, _FORMER_TOKEN_NAME + place)
    app = bootstrap(settings)
    try:
        accounts = app.service.accounts
        former = [row["id"] for row in accounts.list_tokens() if row["name"] in names and row["revoked_at"] is None]
        made = accounts.create_token(name=name)
        for token_id in former:
            app.service.browsers.hand_over(token_id, made["id"])
            accounts.revoke_token(token_id)
        return str(made["token"])
    finally:
        app.close()


def process_lines(progress: Progress, monotonic: Callable[[], float] = time.monotonic) -> OnEvent:
    """Says when a process is ready (with its id and how long it took), when one died, and what a stop cuts off."""
    started: dict[str, float] = {}
    names: dict[str, int | None] = {}

    def on_event(event: StackEvent) -> None:
        now = monotonic()
        if event.kind == "starting":
            started[event.process], names[event.process] = now, event.pid
            progress.provisional(f"  {event.process} ...")
        elif event.kind in ("ready", "done"):
            progress.provisional("")
            took = duration(now - started.get(event.process, now))
            pid = event.pid or names.get(event.process)
            what = "done" if event.kind == "done" else f"pid {pid}"
            progress.line(f"  {event.process.ljust(22)} {took.ljust(8)} {what}")
        elif event.kind in ("died", "not_ready", "crash_loop"):
            progress.provisional("")
            again = "" if event.pause_s is None else f"; started again in {duration(event.pause_s)}"
            progress.warn(f"{event.process}: {event.kind.replace('_', ' ')}: {event.detail}{again}")
        elif event.kind == "cut_off":
            progress.provisional("")
            progress.warn(event.detail)

    return on_event


def serving_lines(info: StackInfo, settings: Settings, stack_file: object) -> list[str]:
    """What a stack that is up says of itself. No secret is among it."""
    lines = [f"web      {info.url}"]
    if info.flower_url:
        lines.append(f"flower   {info.flower_url}   user {info.flower_user}, password: flower_password in {stack_file}")
    return [*lines, f"data     {settings.data_path}", "Ctrl-C stops"]


def sign_in_line(info: StackInfo) -> str:
    """How a browser is signed in: a link for it, which is good once and soon."""
    api = Api(Target(info.url, info.token))
    try:
        return f"sign in  {info.url.rstrip('/')}{api.sign_in_link()['path']}   once; another: taskflow login"
    except TaskflowError as error:  # the stack is up all the same
        return f"sign in  taskflow login   (no link now: {error.message})"
    finally:
        api.close()


def destroy_nodes(api: Api, sleep: Callable[[float], None], progress: Progress, limit_s: float = NODES_GONE_S) -> bool:
    """Destroy every node and wait until none is left; False, with a warning, when that takes too long or fails."""
    end = time.monotonic() + limit_s
    asked: set[str] = set()
    try:
        while True:
            nodes = api.nodes()
            if not nodes:
                return True
            for node in nodes:
                if node["id"] not in asked:
                    api.destroy_node(node["id"], "the command that started this stack is over")
                    asked.add(node["id"])
            if time.monotonic() > end:
                left = ", ".join(node["id"] for node in nodes)
                progress.warn(f"still there after {limit_s:g} s, ended with the stack: node {left}")
                return False
            sleep(0.1)
    except TaskflowError as error:
        progress.warn(f"the nodes could not be destroyed, they end with the stack: {error.message}")
        return False


def other_open_tasks(api: Api, task_id: str | None) -> list[str]:
    """Tasks of this data directory that are under way besides ``task_id``."""
    page = api.tasks(wanted={"status": "queued,delegated,in_progress"}, limit=50)
    return [task["id"] for task in page["tasks"] if task["id"] != task_id]
