"""Waiting for the end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from taskflow.agent.ending import Ending


@pytest.fixture
def ending() -> Iterator[Ending]:
    """One that SIGUSR1 sets."""
    made, before = Ending(), signal.getsignal(signal.SIGUSR1)
    made.on_signals(signal.SIGUSR1)
    yield made
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_that_another_thread_gets_ends_a_wait_without_limit(ending: Ending) -> None:
    """Only the main thread runs handlers, so it has to wake up for them."""
    threading.Timer(0.1, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)).start()
    assert ending.wait()


def test_a_signal_in_the_middle_of_any_line_of_a_wait_never_hangs(ending: Ending) -> None:
    """Many short waits under many signals: a handler that took a lock of the wait it interrupts would hang here."""
    over = threading.Event()

    def shoot() -> None:
        while not over.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    thread = threading.Thread(target=shoot)
    thread.start()
    for _ in range(300):
        ending._set = False
        ending.wait(0.0001)
    ending._set = False
    ending.wait()
    over.set()
    thread.join()
    assert ending.wait()


def test_a_wait_ends_at_its_limit_and_at_a_set_of_any_thread(ending: Ending) -> None:
    """Without signals it is an event like any other."""
    assert not ending.wait(0.01)
    assert not ending.is_set()
    threading.Timer(0.05, ending.set).start()
    assert ending.wait(30)
    assert ending.wait(0)


def test_setting_it_often_blocks_nobody(ending: Ending) -> None:
    """More sets than the pipe behind it holds bytes."""
    for _ in range(100_000):
        ending.set()
    assert ending.wait()
