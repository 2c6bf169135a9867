"""Ending all that runs in a workspace, by whatever knows it: its container, its control group, its user."""

from __future__ import annotations

from pathlib import Path

from taskflow.agent import cgroups, containers, users
from taskflow.agent.confinement import Confinement


def end_all(confinement: Confinement) -> list[int]:
    """SIGKILL for all that runs under it, however it hides. Returns what could not be ended.

    Without any of the three there is nothing to know them by: the caller ends its own descendants.
    """
    if confinement.engine is not None and confinement.name is not None:
        containers.end(confinement.engine, confinement.name)
    if confinement.cgroup is not None:
        cgroups.kill_all(Path(confinement.cgroup))
    return users.end_processes(confinement.uid) if confinement.uid is not None else []
