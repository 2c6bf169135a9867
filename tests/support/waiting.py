"""Waiting for something to become true, where a real process takes its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T | None], description: str, *, timeout_s: float = 30.0, poll_s: float = 0.05
) -> T:
    """The first true value of ``predicate``. Raises ``AssertionError`` saying what did not happen in time."""
    end = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s:g} s: {description}")
        time.sleep(poll_s)  # real processes are waited for here, and only here
