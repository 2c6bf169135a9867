"""The commands about runs of pipelines of one's own; ``show``, ``why``, ``cancel`` and ``rerun`` take their ids, too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from taskflow.cli import connection, render
from taskflow.cli.client import Api
from taskflow.cli.follow import Follower, see_through
from taskflow.cli.many import said
from taskflow.cli.offers import complete_pipelines, complete_runs
from taskflow.cli.options import json_option
from taskflow.cli.pages import read, say_more
from taskflow.cli.problems import EXIT_CODES, FAILED, OK, CommandError
from taskflow.cli.render import Progress
from taskflow.cli.stream import EventStream
from taskflow.clock import Clock
from taskflow.settings import Settings


@click.command(epilog=EXIT_CODES)
@click.argument("pipeline", shell_complete=complete_pipelines)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="K=V|@FILE",
    help="A field of the input, its value as JSON or else as text; or a file with a JSON object. Repeatable.",
)
@click.option("--subject", metavar="S", help="What it is about; one run at a time is open for it.")
@click.option("--key", metavar="K", help="An idempotency key: started again with it, it is the same run.")
@click.option("-f", "--follow", is_flag=True, help="See it through; ends with its outcome.")
@json_option
def start(
    pipeline: str, inputs: tuple[str, ...], subject: str | None, key: str | None, follow: bool, as_json: bool
) -> int:  # fmt: skip
    """Start a run of PIPELINE, one of your own, and print its id."""
    spec = {"pipeline": pipeline, "subject": subject, "input": _fields(inputs, "--input")}
    api = connection.connect(Settings.from_env())
    run = api.start_run(spec, key)
    if not follow:
        click.echo(render.to_json(run) if as_json else run["id"])
        return OK
    return show_started(api, run, follow=True, as_json=as_json)


@click.command("signal")
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@click.argument("name")
@click.option("--data", metavar="JSON|@FILE", default="{}", help="What comes with it: a JSON object.")
@click.option("--key", metavar="K", help="The message's own id, where several signals of one name come.")
@json_option
def send_signal(run_id: str, name: str, data: str, key: str | None, as_json: bool) -> int:
    """Send the signal NAME to RUN. The first one counts; the same again changes nothing."""
    payload = _object(data, "--data")
    said = connection.connect(Settings.from_env()).signal(run_id, name, payload, key)
    click.echo(render.to_json(said) if as_json else "recorded" if said["recorded"] else "it was recorded before")
    return OK


def show_started(api: Api, run: Mapping[str, Any], *, follow: bool, as_json: bool) -> int:
    """Say what was started, or see it through."""
    if follow:
        if not as_json:
            click.echo(run["id"])
        return show(api, run, follow=True, as_json=as_json)
    click.echo(render.to_json(run) if as_json else said("rerun", run))
    return OK


class RunFollower(Follower):
    """Follows a run of a pipeline of one's own, over the server's stream of its events."""

    #: The stream says what happens; this is for what it can't say, as that the run was deleted.
    look_s = 15.0

    def __init__(self, api: Api, run: Mapping[str, Any], progress: Progress, *, clock: Clock | None = None) -> None:
        super().__init__(api, run, progress, sleep=self._wait, clock=clock)
        self._stream: EventStream | None = None

    def run(self) -> dict[str, Any]:
        """Follow to the end; the run as it is then. Raises ``NoServer`` when the server stays away."""
        try:
            ended = super().run()
            if not self._finished_seen:
                self._read_rest()
            return ended
        finally:
            self._let_go()

    def _read_rest(self) -> None:
        """What the stream did not bring before the run was seen to be over."""
        self._let_go()
        while events := self._api.events(self._task_id, self._seq)["events"]:
            for event in events:
                self._take(event)
                self._seq = int(event["seq"])

    def _wait(self, seconds: float) -> None:
        if self._stream is None:
            self._clock.sleep(seconds)
        else:
            self._stream.wait(seconds)

    def _read_events(self) -> bool:
        try:
            if self._stream is None:
                self._stream = EventStream(self._api, self._task_id, str(self._seq), clock=self._clock)
                self._patience.answered()
            seen = self._seq
            while event := self._stream.take():
                self._take(event)
                self._seq = int(event["seq"])
            return self._seq != seen
        except CommandError:
            self._let_go()
            raise

    def _read_log(self) -> bool:
        return False  # it has no output

    def _line(self, event: Mapping[str, Any]) -> str | None:
        if event["kind"] == "signal_recorded":
            return f"  signal {render.clean(event['data'].get('name'))} by {render.clean(event['actor'])}"
        return super()._line(event)

    def _let_go(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def show(api: Api, run: Mapping[str, Any], *, follow: bool, as_json: bool, clock: Clock | None = None) -> int:
    """Show a run; with ``follow`` see it through, and end with its outcome."""
    if follow:
        progress = Progress(err=as_json, plain=as_json)
        run = see_through(RunFollower(api, run, progress, clock=clock), run["id"])
        if not as_json:
            progress.line("")
    click.echo(render.to_json(run) if as_json else render.run_details(run))
    return FAILED if follow and run["status"] != "completed" else OK


def show_list(api: Api, wanted: Mapping[str, Any], *, limit: int, all_pages: bool, as_json: bool) -> int:
    """List the runs that ``wanted``, a query, says, newest first."""
    found = read(partial(api.runs, wanted=wanted), "runs", limit=limit, all_pages=all_pages)
    if as_json:
        click.echo(render.to_json({"runs": found.rows, "next_cursor": found.cursor}))
        return OK
    rows = [(r["id"], r["pipeline"], r["status"], r["step"], r["awaiting"], r["subject"]) for r in found.rows]
    head = ("ID", "PIPELINE", "STATUS", "STEP", "AWAITING", "SUBJECT")
    click.echo(render.table(head, rows) if rows else "no runs")
    say_more(found.cursor)
    return OK


def _fields(inputs: Iterable[str], option: str) -> dict[str, Any]:
    """What ``k=v`` and ``@file`` say together; the last one wins."""
    found: dict[str, Any] = {}
    for one in inputs:
        if one.startswith("@"):
            found |= _object(one, option)
            continue
        name, equals, text = one.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{one!r} is neither NAME=VALUE nor @FILE", param_hint=f"'{option}'")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _object(text: str, option: str) -> dict[str, Any]:
    """A JSON object, or that of the file that ``@file`` names."""
    try:
        if text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        found = json.loads(text)
    except OSError as error:
        raise click.BadParameter(f"{error.filename}: {error.strerror}", param_hint=f"'{option}'") from error
    except ValueError as error:
        raise click.BadParameter("is not JSON", param_hint=f"'{option}'") from error
    if not isinstance(found, dict):
        raise click.BadParameter("must be a JSON object", param_hint=f"'{option}'")
    return found
