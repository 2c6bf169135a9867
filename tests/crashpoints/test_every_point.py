"""Every point of the list on both databases: ``make crashpoints``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crashpoints.crash import crash_and_judge
from tests.crashpoints.points import all_points
from tests.crashpoints.stack import CrashStack

pytestmark = pytest.mark.crashpoints


@pytest.mark.parametrize("points", all_points(), ids=lambda points: " then ".join(points))
def test_a_worker_killed_here_loses_and_repeats_nothing(
    crash_stack: CrashStack, root: Path, points: tuple[str, ...]
) -> None:
    """Both tasks complete, one workspace, session, commit and terminal event each, and nothing is left."""
    crash_and_judge(crash_stack, root, points)
