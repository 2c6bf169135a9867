"""One crash: the worker dies at a point, everything that was submitted completes, nothing happened twice or is left."""

from __future__ import annotations

import itertools
from pathlib import Path

from tests.crashpoints.stack import CrashStack
from tests.support.waiting import wait_until

#: A walk may miss a point that depends on what was faster; three that miss it are no chance.
_WALKS_MAX = 3
_numbers = itertools.count(1)


class NotReached(AssertionError):
    """No walk came to the point: what there was to judge was right."""


def crash_and_judge(stack: CrashStack, root: Path, points: tuple[str, ...]) -> None:
    """Kill the worker at ``points``, one after the other, and judge.

    Raises ``AssertionError`` saying what is wrong, ``NotReached`` when nothing is but the point was never met.
    """
    reached: list[str] = []
    for _ in range(_WALKS_MAX):
        evidence = root / f"evidence-{next(_numbers)}"
        tasks = stack.walk(evidence, *points)
        reached = stack.disarm()
        # What is deleted after the last write of a run needs a moment, or the sweep when its worker died before it.
        wait_until(lambda: not stack.left(), f"nothing is left after {reached}: {stack.left()}", timeout_s=15)
        wrong = stack.wrong(tasks, evidence)
        assert not wrong, f"killed at {reached}: {wrong}"
        if reached == list(points):
            return
    raise NotReached(f"armed {points}, but the worker died only at {reached}; record the list again?")
