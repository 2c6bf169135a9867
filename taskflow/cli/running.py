"""``taskflow run``: submit a task, see it through, and if nothing serves here, bring up a stack for just that long."""

from __future__ import annotations

import click

from taskflow.cli import connection, embedded, render
from taskflow.cli.client import Api
from taskflow.cli.follow import Follower
from taskflow.cli.interrupts import Detached, Interrupts
from taskflow.cli.problems import FAILED, INTERRUPTED, OK, CommandError, NoServer, no_stack
from taskflow.cli.render import Progress
from taskflow.cli.repository import merge_command
from taskflow.cli.spec import Submission
from taskflow.cli.transport import Target
from taskflow.errors import InfrastructureError, TaskflowError
from taskflow.logs import mask_text
from taskflow.settings import Settings
from taskflow.stack.supervisor import Supervisor


def warn_about(submission: Submission, target: Target | None, progress: Progress) -> None:
    """What the user may not know: what the clone lacks, and a path that means something else over there."""
    repository = submission.repository
    if repository.uncommitted:
        names = ", ".join(render.clean(name) for name in repository.uncommitted[:3])
        more = len(repository.uncommitted) - 3
        progress.warn(
            f"{repository.address} has uncommitted changes that the clone will not contain: {names}"
            + (f" and {more} more" if more > 0 else "")
        )
    if target is not None and repository.is_local and not target.is_loopback:
        progress.warn(f"{repository.address} is a path of this machine; {target.url} looks for it on its nodes")


class Run:
    """One ``taskflow run``. ``call`` returns the exit code."""

    def __init__(self, settings: Settings, submission: Submission, *, as_json: bool = False) -> None:
        self._settings = settings
        self._submission = submission
        self._as_json = as_json
        self._progress = Progress(err=as_json, plain=as_json)
        self._interrupts = Interrupts()
        self._supervisor: Supervisor | None = None
        self._task_id: str | None = None
        self._cancel_told = self._cancel_sent = False

    def call(self) -> int:
        """Do it all: find or start a server, submit, follow, stop what was started."""
        with self._interrupts:
            target = connection.wait_while_changing(self._settings)
            warn_about(self._submission, target, self._progress)
            if target is not None:
                return self._with_server(connection.connect(self._settings))
            return self._with_own_stack()

    # --- the server

    def _with_server(self, api: Api) -> int:
        try:
            return self._submit_and_follow(api)
        except (Detached, NoServer) as error:
            self._say_how_to_resume(f"goes on at {mask_text(api.target.url)}", "")
            if isinstance(error, NoServer):
                raise
            return INTERRUPTED
        finally:
            api.close()

    def _with_own_stack(self) -> int:
        try:
            api = self._start_stack()
        except InfrastructureError as error:
            if error.code != "already_serving":
                raise
            # Somebody else was faster: use theirs.
            return self._with_server(self._their_server())
        followed = False
        try:
            code = self._submit_and_follow(api)
            followed = True
        except (Detached, TaskflowError) as error:
            self._say_how_to_resume("is kept", "taskflow up    and then: ")
            if isinstance(error, TaskflowError):
                raise
            code = INTERRUPTED
        finally:
            self._stop_stack(api, orderly=followed)
        return code

    def _start_stack(self) -> Api:
        settings = embedded.for_one_task(self._settings)
        self._progress.line(f"starting a stack in {self._settings.data_path}")
        self._supervisor = embedded.make_supervisor(settings, self._progress, with_flower=False)
        self._interrupts.hasten = self._supervisor.hasten
        try:
            self._supervisor.start()
        finally:
            self._progress.provisional("")
        info = self._supervisor.data_dir.read_stack_info()
        if info is None:
            self._supervisor.stop()
            raise no_stack(self._settings.data_path)
        return Api(Target(info.url, info.token))

    def _their_server(self) -> Api:
        if connection.wait_while_changing(self._settings) is None:
            raise no_stack(self._settings.data_path)
        return connection.connect(self._settings)

    def _stop_stack(self, api: Api, *, orderly: bool) -> None:
        assert self._supervisor is not None
        self._interrupts.phase = "stopping"
        self._progress.provisional("  stopping the stack ...")
        api.patience_s = 1.0  # after a signal it may be on its way out already
        try:
            if orderly and self._interrupts.count < 2:
                others = embedded.other_open_tasks(api, self._task_id)
                if others:
                    self._progress.warn(f"other tasks are under way and go on with: taskflow up ({', '.join(others)})")
                else:
                    embedded.destroy_nodes(api, self._interrupts.sleep, self._progress)
        except TaskflowError as error:
            self._progress.warn(error.message)
        finally:
            api.close()
            self._supervisor.stop()
            self._progress.provisional("")

    # --- the task

    def _submit_and_follow(self, api: Api) -> int:
        # From here on a signal is only noted: it must not come between the submission and knowing the task's id.
        self._interrupts.phase = "following"
        task = api.submit(self._submission.spec)
        self._task_id = task["id"]
        self._progress.line(f"task {task['id']}   {render.clean(task['title'])}")
        follower = Follower(
            api, task, self._progress, on_tick=lambda: self._before_each_look(api), sleep=self._interrupts.sleep
        )
        task = follower.run()
        self._interrupts.phase = "stopping"
        if self._as_json:
            click.echo(render.to_json({**task, "merge_command": merge_command(task)}))
        else:
            self._progress.line("")
            self._progress.line(render.result_block(task, follower.tail))
        return OK if task["status"] == "completed" else FAILED

    def _before_each_look(self, api: Api) -> None:
        if self._supervisor is not None and not self._supervisor.data_dir.is_serving():
            logs = self._supervisor.data_dir.logs
            raise InfrastructureError("the stack ended by itself", advice=f"its logs are in {logs}")
        if self._interrupts.count and not self._cancel_sent:
            self._cancel(api)

    def _cancel(self, api: Api) -> None:
        if not self._cancel_told:
            self._cancel_told = True
            self._progress.line("  cancelling; waiting for the cleanup (Ctrl-C again leaves it as it is)")
        try:
            api.cancel(str(self._task_id), "interrupted")
        except NoServer:
            return  # tried again before the next look
        except CommandError as error:
            if error.status != 409:  # 409: it ended in this very moment
                self._progress.warn(error.message)
        self._cancel_sent = True

    def _say_how_to_resume(self, what: str, before: str) -> None:
        self._progress.provisional("")
        if self._task_id:
            click.echo(f"{self._task_id} {what}; look at it with: {before}taskflow show {self._task_id}", err=True)
