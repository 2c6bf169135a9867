"""``taskflow top``: what goes on, on the whole terminal, once a second."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Any, Literal

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from taskflow.cli import connection, live, render
from taskflow.cli.interrupts import Interrupts
from taskflow.cli.options import json_option
from taskflow.cli.overview import Look, Overview, frame, under_way
from taskflow.cli.problems import OK, CommandError, NoServer
from taskflow.settings import Settings

_REFRESH_S = 1.0
#: What stands around the tasks and the nodes, in lines; what does not fit is cut off below.
_AROUND_LINES = 9
_ROWS_MIN = 5
_HELP = "q quit   j/k or arrows move   enter why"
_KEYS = {
    b"q": "quit", b"\x03": "quit", b"j": "down", b"\x1b[B": "down", b"\x1bOB": "down", b"k": "up", b"\x1b[A": "up",
    b"\x1bOA": "up", b"\r": "why", b"\n": "why", b"\x1b": "close",
}  # fmt: skip


@click.command()
@click.option("--once", is_flag=True, help="Print one frame and end; so does an output that is no terminal.")
@json_option
def top(once: bool, as_json: bool) -> int:
    """Show tasks, runs, steps, nodes, late alarms and health, refreshed every second. q ends it, enter says why.

    --json prints one object. Alarms are counted among the tasks and runs that were asked, a few at each refresh.
    """
    api = connection.connect(Settings.from_env())
    overview = Overview(api)
    if as_json:
        click.echo(render.to_json(overview.look()))
    elif once or not live.is_live() or not sys.stdin.isatty():
        # The width of a terminal, also where there is none: lines that are cut are no use to a file.
        width = None if sys.stdout.isatty() else 160
        colours: Literal["auto"] | None = "auto" if live.is_live() else None
        console = Console(highlight=False, markup=False, emoji=False, width=width, color_system=colours)
        console.print(frame(overview.look(), look=Look.on(console)))
    else:
        api.patience_s = 0.0
        with Interrupts():  # whoever ends it, the terminal is as it was
            Screen(overview).run()
    return OK


class Screen:
    """The dashboard while it is open: what was seen last, which task is marked, and of which the why is open."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._found: dict[str, Any] | None = None
        self._selected = 0
        self._marked: str | None = None
        self._asked: str | None = None
        self._note = ""
        self._fault = ""

    def run(self) -> None:
        """Until q or Ctrl-C. A server that is away is waited for; raises ``CommandError`` for what stays refused."""
        with _single_keys(sys.stdin.fileno()), Live(
            self.draw(), console=self._console, screen=True, auto_refresh=False, redirect_stderr=False
        ) as screen:  # fmt: skip
            while True:
                self.refresh()
                screen.update(self.draw(), refresh=True)
                end = time.monotonic() + _REFRESH_S
                while (left_s := end - time.monotonic()) > 0:
                    key = _read_key(sys.stdin.fileno(), left_s)
                    if key == "quit":
                        return
                    if key:
                        self.press(key)
                        screen.update(self.draw(), refresh=True)

    def refresh(self) -> None:
        """Ask the server; what it said before stays on the screen while it is away."""
        try:
            self._found = self._overview.look()
            self._keep_mark()
            if self._asked:
                self._note = render.why_text(self._overview.why(self._asked), self._asked)
            self._fault = ""
        except NoServer as error:
            self._fault = f"no answer: {error.why}"
        except CommandError as error:
            if error.status != 404:
                raise
            self._asked, self._note = None, ""  # the task that was asked is gone

    def _keep_mark(self) -> None:
        """The mark stays on its task when others come and go, and near its place when that one ended."""
        ids = [] if self._found is None else [one["id"] for one in under_way(self._found)]
        self._selected = ids.index(self._marked) if self._marked in ids else max(0, min(self._selected, len(ids) - 1))
        self._marked = ids[self._selected] if ids else None

    def press(self, key: str) -> None:
        """Do what a key asks for."""
        tasks = [] if self._found is None else under_way(self._found)
        if key in ("up", "down") and tasks:
            self._selected = max(0, min(len(tasks) - 1, self._selected + (1 if key == "down" else -1)))
            self._marked = tasks[self._selected]["id"]
        if key == "close" or (key == "why" and self._asked):
            self._asked, self._note = None, ""
        elif key == "why" and tasks:
            self._asked = tasks[self._selected]["id"]
            self.refresh()

    def draw(self) -> RenderableType:
        """The frame, cut to the height of the terminal by showing fewer tasks."""
        if self._found is None:
            return Text(self._fault or "asking the server ...")
        below = "\n".join(part for part in (self._fault, self._note) if part)
        others = _AROUND_LINES + len(self._found["nodes"]) + (below.count("\n") + 3 if below else 0)
        rows = max(_ROWS_MIN, self._console.height - others)
        look = Look.on(self._console)
        return _with_help(frame(self._found, selected=self._selected, rows=rows, note=below, look=look))


def _with_help(drawn: RenderableType) -> RenderableType:
    return Group(Text(_HELP, "dim"), drawn)


def _read_key(descriptor: int, seconds: float) -> str | None:
    """The next key, waited for at most so long; None when none came, or one that means nothing here."""
    if not select.select([descriptor], [], [], seconds)[0]:
        return None
    return _KEYS.get(os.read(descriptor, 8))


@contextlib.contextmanager
def _single_keys(descriptor: int) -> Iterator[None]:
    """The terminal gives each key at once and does not show it; afterwards it is as it was."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
