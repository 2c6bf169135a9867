"""The part of a terminal that is drawn again and again: what goes on at the moment, below the lines that stay."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.console import Console, OverflowMethod, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

_REFRESHES_PER_S = 8
_STEP_WIDTH = 22


def is_live(*, err: bool = False, environ: Mapping[str, str] | None = None) -> bool:
    """Whether there is a terminal that may be drawn on: not with NO_COLOR, not with TERM=dumb."""
    environ = os.environ if environ is None else environ
    stream = sys.stderr if err else sys.stdout
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


@dataclass(frozen=True)
class Standing:
    """Where a task stands. ``entered`` and ``ends`` are monotonic seconds; ``awaited`` and ``then`` are words."""

    step: str
    entered: float
    awaited: str = ""
    ends: float | None = None
    then: str = ""


def short(seconds: float) -> str:
    """A duration that counts, in whole seconds: ``7 s``, ``3:05``, ``2:00:09``."""
    whole = max(0, int(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


class Region:
    """Shows a text or a ``Standing`` at the bottom of a terminal until it is told nothing; lines go above it.

    It is drawn by a thread of its own, so the time goes on while its user waits. Not for two threads at once.
    """

    def __init__(self, console: Console, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._monotonic = monotonic
        # Letters that the terminal can't show would be written as escapes, wider than the place that they have.
        self._spinner = Spinner("line" if console.options.ascii_only else "dots", style="cyan")
        self._shown: str | Standing = ""
        self._live: Live | None = None

    def show(self, what: str | Standing) -> None:
        """Show ``what`` from now on; the empty text ends the drawing and leaves nothing behind."""
        self._shown = what
        if not what:
            self.stop()
        elif self._live is None:
            self._live = Live(
                console=self._console, get_renderable=self.render, transient=True, refresh_per_second=_REFRESHES_PER_S,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._live.start(refresh=True)

    def line(self, text: str) -> None:
        """Print a line that stays, whatever letters are in it."""
        self._console.print(Text(text), soft_wrap=True)

    def aside(self, write: Callable[[], None]) -> None:
        """Let ``write`` print to another stream of the same terminal."""
        shown = self._shown
        self.stop()
        write()
        self.show(shown)

    def stop(self) -> None:
        """Remove what is drawn."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def render(self) -> RenderableType:
        """What is drawn now."""
        what = self._shown
        drawn = Table.grid()
        drawn.add_column(no_wrap=True, overflow=overflow_on(self._console))
        if not isinstance(what, Standing):
            drawn.add_row(Text(what))
            return drawn
        now = self._monotonic()
        first = Table.grid(padding=(0, 1))
        first.add_column(width=1)
        first.add_column(min_width=_STEP_WIDTH, no_wrap=True)
        first.add_column(no_wrap=True)
        first.add_row(self._spinner, Text(what.step, style="bold"), Text(short(now - what.entered)))
        drawn.add_row(first)
        for text in _waits(what, now):
            drawn.add_row(Text(f"    {text}", style="dim"))
        return drawn


def _waits(what: Standing, now: float) -> list[str]:
    """What is awaited, and how long it may still take."""
    lines = [what.awaited] if what.awaited else []
    if what.ends is not None:
        left_s = what.ends - now
        limit = f"{short(left_s)} left" if left_s > 0 else f"overdue since {short(-left_s)}"
        lines.append(f"{limit}; then {what.then}" if what.then else limit)
    return lines


def overflow_on(console: Console) -> OverflowMethod:
    """How what is too wide is cut: with a mark, where the terminal can show that."""
    return "crop" if console.options.ascii_only else "ellipsis"


def make_region(*, err: bool = False) -> Region:
    """A region on standard output, or on standard error."""
    return Region(Console(stderr=err, highlight=False, markup=False, emoji=False))
