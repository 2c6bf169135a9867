"""Ending all that runs in a workspace, by whatever knows it: its container, its control group, its user; and giving
back what it had of the machine."""

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


def give_back(confinement: Confinement) -> None:
    """Take back what a workspace had outside its directory, once nothing runs in it. Raises ``OSError``.

    Its directory is removed next. Its user is another's only after that: the register goes by what lies in there.
    """
    if confinement.cgroup is not None:
        cgroups.end(Path(confinement.cgroup))
    if confinement.uid is not None:
        users.remove_leavings(confinement.uid)
