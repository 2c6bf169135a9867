"""A few points on each run of the tests, others each day; and the list itself."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from tests.crashpoints.crash import NotReached, crash_and_judge
from tests.crashpoints.points import kept, listed, sample
from tests.crashpoints.stack import CrashStack

pytestmark = pytest.mark.e2e

_SIZE = 3


def test_the_list_names_every_point_of_an_undisturbed_walk(crash_stack: CrashStack, root: Path) -> None:
    """A call that was added to the path of a task has to be crashed at: ``python -m tests.crashpoints`` lists it."""
    crash_stack.seen()
    evidence = root / "evidence"
    tasks = crash_stack.walk(evidence)
    assert crash_stack.wrong(tasks, evidence) == []
    assert kept(crash_stack.seen()) - set(listed()) == set()


def test_todays_sample_is_survived(crash_stack: CrashStack, root: Path) -> None:
    """The points are chosen by the day; all are seen in turn. Each has to be met only when all of them are run."""
    today = datetime.datetime.now(datetime.timezone.utc).toordinal()
    met = 0
    for points in sample(today, _SIZE):
        try:
            crash_and_judge(crash_stack, root, points)
            met += 1
            print(f"killed at {' then '.join(points)}")
        except NotReached as missed:  # on a busy machine another process may have been faster
            print(missed)
    assert met, "no worker was killed at all"
