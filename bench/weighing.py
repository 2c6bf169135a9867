"""What processes take up."""

from __future__ import annotations

import psutil

from tests.support.celery_processes import Child


def resident_bytes(child: Child) -> int:
    """Resident memory of a command and everything it started."""
    process = psutil.Process(child.pid)
    return int(sum(one.memory_info().rss for one in (process, *process.children(recursive=True))))
