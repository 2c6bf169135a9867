"""Commands in a real terminal: what is drawn on it, keys, and that it is left as it was."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.fake_server import FakeServer
from tests.support.waiting import wait_until

_HIDE, _SHOW = b"\x1b[?25l", b"\x1b[?25h"
_OTHER_SCREEN, _OWN_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"


class Terminal:
    """A pseudo-terminal with ``taskflow`` in it."""

    def __init__(self, server: FakeServer, *argv: str, **environ: str) -> None:
        self._ours, self._theirs = pty.openpty()
        self.before = termios.tcgetattr(self._theirs)
        self.seen = b""
        kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "taskflow", *argv], cwd=Path(__file__).parents[2],
            env={**kept, "TERM": "xterm", "TASKFLOW_URL": server.url, "TASKFLOW_TOKEN": server.token, **environ},
            stdin=self._theirs, stdout=self._theirs, stderr=self._theirs, start_new_session=True,
        )  # fmt: skip

    def shows(self, text: bytes) -> None:
        """Wait until this was written."""
        wait_until(lambda: text in self.read(), f"{text!r} is on the terminal", timeout_s=60)

    def read(self) -> bytes:
        """All that was written so far."""
        while select.select([self._ours], [], [], 0.02)[0]:
            self.seen += os.read(self._ours, 65536)
        return self.seen

    def press(self, key: bytes) -> None:
        """Press a key."""
        os.write(self._ours, key)

    def ended(self) -> int:
        """Wait for the end; the exit code."""
        wait_until(lambda: (self.read(), self.process.poll() is not None)[1], "the command ends", timeout_s=60)
        self.read()
        return self.process.returncode

    def is_as_before(self) -> bool:
        """Whether it echoes and waits for lines as it did, and shows its cursor."""
        return termios.tcgetattr(self._theirs) == self.before and self.seen.count(_HIDE) <= self.seen.count(_SHOW)

    def close(self) -> None:
        """End what is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)
        os.close(self._ours)
        os.close(self._theirs)


@contextlib.contextmanager
def terminal(server: FakeServer, *argv: str, **environ: str) -> Iterator[Terminal]:
    """A terminal while the block runs."""
    found = Terminal(server, *argv, **environ)
    try:
        yield found
    finally:
        found.close()


@pytest.mark.parametrize("how", ["q", "SIGINT", "SIGTERM", "SIGHUP"])
def test_top_draws_on_a_screen_of_its_own_and_leaves_the_terminal_as_it_was(server: FakeServer, how: str) -> None:
    """Enter opens the why; q ends it with 0, Ctrl-C or being told to end with 130."""
    server.why = {"summary": "the command runs; its outcome is awaited", "since": "2026-01-01T00:00:00Z"}
    with terminal(server, "top") as screen:
        screen.shows(b"task-1")
        assert _OTHER_SCREEN in screen.seen
        screen.press(b"\r")
        screen.shows(b"2026-01-01T00:00:00Z")
        if how == "q":
            screen.press(b"q")
        else:
            screen.process.send_signal(signal.Signals[how])
        assert screen.ended() == (0 if how == "q" else 130)
        assert _OWN_SCREEN in screen.seen
        assert screen.is_as_before()
        assert b"Traceback" not in screen.seen


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_followed_task_is_drawn_and_a_signal_shows_the_cursor_again(server: FakeServer, how: signal.Signals) -> None:
    """What is awaited stands below the lines; after Ctrl-C, or another end, the task goes on, and is named."""
    server.walk_to_running()
    server.why = {
        "summary": "its outcome is awaited", "waited_s": 7.0, "since": "2026-01-01T00:00:00Z",
        "until": "2026-01-01T01:00:00Z", "then": "the step fails",
    }  # fmt: skip
    with terminal(server, "show", "-f", "task-1") as screen:
        screen.shows(b"59:5")
        assert b"its outcome is awaited" in screen.seen
        screen.process.send_signal(how)
        assert screen.ended() == 130
        assert b"task-1 goes on" in screen.seen
        assert screen.is_as_before()


def test_a_followed_run_is_drawn_as_a_task_is(server: FakeServer) -> None:
    """Its step, what is awaited and how long it may still take, and what happens then."""
    server.task = {"id": "run-1", "status": "waiting", "finished": False, "step": "approve", "pipeline": "order"}
    server.why = {
        "summary": "it is at approve and waits for the signal approved", "waited_s": 7.0, "since": "2026-01-01T00:00:00Z",
        "until": "2026-01-01T01:00:00Z", "then": "the step fails",
    }  # fmt: skip
    with terminal(server, "show", "-f", "run-1") as screen:
        screen.shows(b"59:5")
        assert b"waits for the signal approved" in screen.seen
        screen.process.send_signal(signal.SIGINT)
        assert screen.ended() == 130
        assert b"run-1 goes on" in screen.seen
        assert screen.is_as_before()


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_terminal_that_wants_no_drawing_gets_plain_lines(server: FakeServer, environ: dict[str, str]) -> None:
    """Not one control code, and ``top`` prints one frame."""
    server.walk_to_running()
    server.end("completed")
    for argv in (("show", "-f", "task-1"), ("top",)):
        with terminal(server, *argv, **environ) as screen:
            assert screen.ended() == 0
            assert b"task-1" in screen.seen
            assert b"\x1b" not in screen.seen
