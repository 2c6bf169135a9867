"""What processes take up."""

from __future__ import annotations

import psutil

from tests.support.celery_processes import Child


def resident_bytes(child: Child) -> int:
    """Resident memory of a command and everything it started."""
    return int(sum(one.memory_info().rss for one in _family(child.pid)))


def processor_s(pid: int) -> float:
    """Processor time of a process and everything it started, those that ended and were waited for included."""
    times = [one.cpu_times() for one in _family(pid)]
    ended = times[0].children_user + times[0].children_system
    return float(sum(one.user + one.system for one in times) + ended)


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]
