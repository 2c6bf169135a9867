"""What is drawn on a terminal while something goes on, and where nothing is drawn."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from taskflow.cli.follow import Follower
from taskflow.cli.live import Region, Standing, is_live, short
from taskflow.cli.render import Progress
from taskflow.clock import ManualClock
from tests.cli.fake_server import FakeServer
from tests.cli.test_follow import Recording, Script, make_follower


class Screen:
    """A terminal of 70 columns, and a region on it with a clock of its own."""

    def __init__(self) -> None:
        self.out = io.StringIO()
        self.clock = ManualClock()
        console = Console(file=self.out, force_terminal=True, width=70, height=20, highlight=False, markup=False)
        self.region = Region(console, self.clock.monotonic)

    def drawn(self, what: str | Standing) -> list[str]:
        """The lines that ``what`` is drawn as at this moment."""
        self.region.show(what)
        plain = Console(file=io.StringIO(), width=70, color_system=None)
        plain.print(self.region.render())
        self.region.stop()
        assert isinstance(plain.file, io.StringIO)
        return [line.rstrip() for line in plain.file.getvalue().splitlines()]


def test_a_step_is_drawn_with_its_time_and_what_it_waits_for() -> None:
    """Step and elapsed time, then what is awaited, then how long it may take, counting down, and what follows."""
    screen = Screen()
    now = screen.clock.monotonic()
    standing = Standing("workspace_ready", now, "its ready callback is awaited", now + 65, "the node is asked")
    screen.clock.advance(4.0)
    first, *waits = screen.drawn(standing)
    assert first[1:].split() == ["workspace_ready", "4", "s"]
    assert waits == ["    its ready callback is awaited", "    1:01 left; then the node is asked"]
    screen.clock.advance(63.0)
    assert screen.drawn(standing)[0].endswith("1:07")
    assert screen.drawn(standing)[2] == "    overdue since 2 s; then the node is asked"


def test_what_is_too_wide_is_cut_to_one_line() -> None:
    """A drawing that wraps could not be removed again."""
    screen = Screen()
    drawn = screen.drawn(Standing("running", screen.clock.monotonic(), "x" * 200))
    assert [len(line) <= 70 for line in drawn] == [True, True]
    assert len(screen.drawn("y" * 200)) == 1


def test_a_terminal_without_utf_8_is_drawn_on_with_letters_that_it_has() -> None:
    """Others would be written as escapes, which are wider than their place and are not removed again."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="iso-8859-1")
    console = Console(file=out, force_terminal=True, width=70, height=20, highlight=False, markup=False)
    region = Region(console)
    region.show(Standing("running", 0.0, "x" * 200, 65.0, "y" * 200))
    region.stop()
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    assert b"running" in out.buffer.getvalue() and out.buffer.getvalue().isascii()


def test_lines_stay_and_are_printed_letter_for_letter() -> None:
    """Brackets and colons of an output are no markup; the drawing leaves nothing and shows the cursor again."""
    screen = Screen()
    screen.region.show(Standing("running", screen.clock.monotonic()))
    screen.region.line("  | [bold]x[/bold] :smile: " + "w" * 100)
    screen.region.aside(lambda: print("warned", file=screen.out))
    screen.region.show("")
    written = screen.out.getvalue()
    assert "  | [bold]x[/bold] :smile: " + "w" * 100 + "\n" in written
    assert "warned\n" in written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 2
    assert written.rstrip("\x1b[?25h").endswith("\x1b[2K")


@pytest.mark.parametrize(
    ("tty", "environ", "live"),
    [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False)],
)
def test_only_a_terminal_that_wants_it_is_drawn_on(
    monkeypatch: pytest.MonkeyPatch, tty: bool, environ: dict[str, str], live: bool
) -> None:
    """Pipes, NO_COLOR, dumb terminals and ``--json`` get plain lines."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: tty)
    assert is_live(environ=environ) is live
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Progress().is_live is tty
    assert Progress(plain=True).is_live is False


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0 s"), (59.9, "59 s"), (65, "1:05"), (7209, "2:00:09"), (-1, "0 s")]
)
def test_time_counts_in_whole_seconds(seconds: float, text: str) -> None:
    """It never shows a second that is not over."""
    assert short(seconds) == text


class Watched(Recording):
    """A progress that somebody sees; keeps what was drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[str | Standing] = []

    @property
    def is_live(self) -> bool:
        """Somebody looks."""
        return True

    def provisional(self, what: str | Standing) -> None:
        """Keep it."""
        self.shown.append(what)


def test_a_follower_says_what_is_awaited_by_its_own_clock(server: FakeServer) -> None:
    """Since when and until when come from the server as lengths of time: a clock that differs does no harm."""
    server.walk_to_running()
    server.why = {
        "summary": "the command runs; its outcome is awaited; its alarm is overdue", "waited_s": 7.0,
        "since": "1999-01-01T00:00:00Z", "until": "1999-01-01T00:01:00Z", "then": "the step fails",
    }  # fmt: skip
    progress = Watched()
    script = Script(lambda: None, lambda: server.end("completed"))
    began = script.clock.monotonic()
    make_follower(server, script, progress).run()
    shown = [one for one in progress.shown if isinstance(one, Standing) and one.awaited]
    assert shown[0] == Standing(
        "running", began - 7.0, "the command runs; its outcome is awaited; its alarm is overdue", began + 53.0,
        "the step fails",
    )  # fmt: skip
    assert progress.shown[0] == Standing("workspace_ready", began)  # at once, before anybody was asked
    assert progress.shown[-1] == ""
    assert len(server.asked("GET", "/why")) == 1  # not at every look


def test_nobody_is_asked_what_nobody_sees(server: FakeServer) -> None:
    """Plain lines need no further requests; a server that does not know is no reason to stop."""
    server.walk_to_running()
    server.end("completed")
    make_follower(server, Script(), Recording()).run()
    assert server.asked("GET", "/why") == []
    server.refuse[("GET", "/why")] = (503, {"error": {"code": "away", "message": "not now"}})
    follower: Follower = make_follower(server, Script(), Watched())
    assert follower.run()["status"] == "completed"
