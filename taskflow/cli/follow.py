"""Following a task: its events and output as they come, over restarts of the server, until nothing of it goes on."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from taskflow.cli import render
from taskflow.cli.client import Api
from taskflow.cli.interrupts import Interrupts
from taskflow.cli.live import Standing
from taskflow.cli.problems import CommandError, NoServer
from taskflow.cli.render import LogLines, Progress
from taskflow.clock import Clock, SystemClock

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
#: How long a server may be away before following gives up; the task itself does not mind.
LOST_MAX_S = 120.0
_QUIET_S = 2.0
_NEW_TOKEN_S = 3.0
#: On a terminal: how often it is asked what the step waits for.
_WHY_S = 5.0

Sleep = Callable[[float], None]


@dataclass(frozen=True)
class Awaited:
    """What a step waits for, as it was ``asked``. All times are monotonic seconds."""

    asked: float
    what: str = ""
    entered: float | None = None
    ends: float | None = None
    then: str = ""


class Patience:
    """Bears with a server that is away, and with one that came back elsewhere. ``say``: told when that takes a while."""

    def __init__(self, api: Api, clock: Clock, say: Callable[[str], None]) -> None:
        self._api = api
        self._clock = clock
        self._say = say
        self._lost_at: float | None = None
        self._told = False

    @property
    def is_lost(self) -> bool:
        """Whether the last look found nobody."""
        return self._lost_at is not None

    def answered(self) -> None:
        """It answers: say so, if it was said that it does not."""
        if self._told:
            self._told = False
            self._say("the server answers again")

    def looked(self) -> None:
        """All of a look was answered."""
        self._lost_at = None

    def bear(self, error: CommandError) -> None:
        """Raise ``error`` when it is none that passes, or has lasted too long."""
        if self._api.look_again():
            return
        if not isinstance(error, NoServer) and error.status not in (401, 500):
            raise error
        now = self._clock.monotonic()
        if self._lost_at is None:
            self._lost_at = now
        # A stack that starts again voids its token shortly before it says the new one.
        if now - self._lost_at > (_NEW_TOKEN_S if error.status == 401 else LOST_MAX_S):
            raise error
        if not self._told and now - self._lost_at >= _QUIET_S:
            self._told = True
            self._say(f"the server does not answer ({render.clean(error.why)}); trying again")


class Follower:
    """Follows one run of ``task``. What was seen is remembered by number, so nothing is shown twice or left out.

    ``on_tick`` is called before each look. ``sleep`` may return early when something is to be done.
    """

    #: The task is looked at this often even when no event says that it ended (events are pruned one day).
    look_s = 3.0

    def __init__(
        self,
        api: Api,
        task: Mapping[str, Any],
        progress: Progress,
        *,
        on_tick: Callable[[], None] | None = None,
        sleep: Sleep | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._api = api
        self._task_id = str(task["id"])
        self._run_id = task.get("run_id", task["id"])
        self._progress = progress
        self._on_tick = on_tick
        self._clock = clock or SystemClock()
        self._sleep = sleep or self._clock.sleep
        self._seq = 0
        self._chunk = 0
        self._step = task.get("step")
        self._entered = self._clock.monotonic()
        self._awaited: Awaited | None = None
        self._output = False
        self._looked_at = 0.0
        self._finished_seen = False
        self._patience = Patience(api, self._clock, self._say)
        self.lines = LogLines()

    @property
    def tail(self) -> list[str]:
        """The last lines of output that were seen."""
        return list(self.lines.tail)

    def run(self) -> dict[str, Any]:
        """Follow to the end; the task as it is then. Raises ``NoServer`` when the server stays away."""
        patience_s, self._api.patience_s = self._api.patience_s, 0.0  # retrying is done here, where it is seen
        try:
            return self._follow()
        finally:
            self._progress.provisional("")
            self._api.patience_s = patience_s

    def _follow(self) -> dict[str, Any]:
        pause_s = FIRST_PAUSE_S
        while True:
            if self._on_tick:
                self._on_tick()
            try:
                news = self._read_events()
                news = self._read_log() or news
                task = self._ended_task()
                self._patience.looked()
            except CommandError as error:
                self._patience.bear(error)
                news, task = False, None
            if task is not None:
                return task
            self._show_step()
            pause_s = FIRST_PAUSE_S if news else min(pause_s * 1.3, LONGEST_PAUSE_S)
            self._sleep(pause_s)

    def _read_events(self) -> bool:
        found = self._api.events(self._task_id, self._seq)
        self._patience.answered()
        for event in found["events"]:
            if event.get("run_id") in (None, self._run_id):
                self._take(event)
            # Only now: if reading the log broke off, this event comes again.
            self._seq = max(self._seq, int(event["seq"]))
        return bool(found["events"])

    def _take(self, event: Mapping[str, Any]) -> None:
        kind = event.get("kind")
        if kind == "step_entered":
            # What the command wrote belongs above the line that says it is over.
            if (event.get("data") or {}).get("from") == "running":
                self._drain_log()
            self._step, self._entered = event.get("step"), self._clock.monotonic()
            self._awaited = None
            self._draw_step()
            self._output = self._output or event.get("step") in ("agent_session", "running")
        line = self._line(event)
        if line:
            self._progress.line(line)
        if kind == "run_finished":
            self._finished_seen = True

    def _line(self, event: Mapping[str, Any]) -> str | None:
        """What an event says to people, None for nothing."""
        return render.event_line(event)

    def _drain_log(self) -> None:
        while self._read_log():
            pass
        self._show(self.lines.feed(b"", final=True))

    def _read_log(self) -> bool:
        if not self._output:
            return False
        found = self._api.logs(self._task_id, self._chunk, self._run_id)
        for chunk in found["chunks"]:
            if int(chunk["number"]) <= self._chunk:
                continue
            self._chunk = int(chunk["number"])
            self._show(self.lines.feed(base64.b64decode(chunk["data"])))
        return bool(found["chunks"])

    def _show(self, lines: list[str]) -> None:
        for line in lines:
            self._progress.line(render.LOG_PREFIX + line)

    def _ended_task(self) -> dict[str, Any] | None:
        """The task once nothing of it goes on any more and all of its output was shown."""
        now = self._clock.monotonic()
        if not self._finished_seen and now - self._looked_at < self.look_s:
            return None
        task = self._api.task(self._task_id)
        self._looked_at = now
        if task.get("run_id", self._run_id) != self._run_id:  # it was run again meanwhile: ours is history
            return task
        if not task.get("finished"):
            return None
        while self._read_events():
            pass
        self._drain_log()
        return task

    def _show_step(self) -> None:
        if not self._step or self._patience.is_lost or not self._progress.is_live:
            return
        now = self._clock.monotonic()
        if self._awaited is None or now - self._awaited.asked >= _WHY_S:
            self._awaited = self._ask_why(now)
        self._draw_step()

    def _draw_step(self) -> None:
        if not self._step:
            return
        said = self._awaited or Awaited(self._entered)
        self._progress.provisional(
            Standing(render.clean(self._step), said.entered or self._entered, said.what, said.ends, said.then)
        )

    def _ask_why(self, now: float) -> Awaited:
        """What the step waits for; nothing when that can't be said at the moment. Times become those of our clock."""
        try:
            found = self._api.why(self._task_id)
        except CommandError:
            return Awaited(now)  # whether the server is lost is for the reading of events to find
        if found.get("step") != self._step:
            return Awaited(now)
        waited_s = found.get("waited_s")
        entered = None if waited_s is None else now - float(waited_s)
        limit_s = render.seconds_between(found.get("since"), found.get("until"))
        return Awaited(
            now, render.clean(found.get("summary") or ""), entered,
            None if entered is None or limit_s is None else entered + limit_s, render.clean(render.then_of(found)),
        )  # fmt: skip

    def _say(self, text: str) -> None:
        self._progress.provisional("")  # what it waited for is not known now
        self._progress.line(f"  {text}")


def see_through(follower: Follower, thing_id: str) -> dict[str, Any]:
    """Follow without owning: Ctrl-C ends the following, not what is followed."""
    try:
        with Interrupts():  # a kill ends it as Ctrl-C does, with the cursor shown again
            return follower.run()
    except KeyboardInterrupt:
        click.echo(f"{thing_id} goes on; look at it with: taskflow show -f {thing_id}", err=True)
        raise


def write_log(
    api: Api,
    task_id: str,
    write: Callable[[Mapping[str, Any]], None],
    *,
    run_id: str | None = None,
    follow: bool,
    say: Callable[[str], None],
    sleep: Sleep | None = None,
    clock: Clock | None = None,
) -> None:
    """Give each chunk of the task's output to ``write``, in order; with ``follow`` until the command is over, also over
    restarts of the server, of which ``say`` is told. ``run_id``: of which run; None: of the last one."""
    clock = clock or SystemClock()
    sleep = sleep or clock.sleep
    patience = Patience(api, clock, say)
    after, pause_s = 0, FIRST_PAUSE_S
    while True:
        try:
            found = api.logs(task_id, after, run_id)
            patience.answered()
            patience.looked()
        except CommandError as error:
            if not follow:
                raise
            patience.bear(error)
            sleep(LONGEST_PAUSE_S)
            continue
        for chunk in found["chunks"]:
            write(chunk)
        after = max(after, int(found["next"]))
        if found["chunks"]:
            pause_s = FIRST_PAUSE_S
            continue
        if found["ended"] or not follow:
            return
        sleep(pause_s)
        pause_s = min(pause_s * 1.3, LONGEST_PAUSE_S)
