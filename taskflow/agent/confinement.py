"""What a command of a workspace runs in: its user, its limits, its control group, its container."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskflow.agent.processes import forbid_new_privileges

OPEN_FILES_MAX = 16_384
PROCESSES_MAX = 2048  # threads count


@dataclass(frozen=True)
class Confinement:
    """How one workspace's commands are held. Made once for a workspace and kept in its directory; no secret in it.

    ``uid`` is its user's and group's number, None the agent's own. ``home`` and ``tmp`` are its own directories.
    ``cgroup`` is the directory of its control group, None where there is none. ``image`` is what its commands run in,
    by ``engine`` in a container called ``name``, None on the machine itself. ``vcpus`` and ``memory_mb`` are what its
    task reserved, 0 for nothing.
    """

    uid: int | None = None
    home: str | None = None
    tmp: str | None = None
    processes: int = PROCESSES_MAX
    vcpus: float = 0.0
    memory_mb: int = 0
    cgroup: str | None = None
    engine: str | None = None
    image: str | None = None
    name: str | None = None

    @classmethod
    def of(cls, data: dict[str, Any] | None) -> Confinement:
        """From JSON; nothing at all is no confinement but the limits that hold for everybody."""
        return cls(**data) if data else COMMON

    def enter(self) -> None:
        """For good, in a child between fork and exec. Raises ``OSError``.

        The control group first, while the rights for it are there. A user of its own last, and after it nothing that
        a setuid program could give back.
        """
        if self.cgroup is not None:
            (Path(self.cgroup) / "cgroup.procs").write_text("0", encoding="ascii")
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_NOFILE, OPEN_FILES_MAX)
        if self.uid is None:
            return
        _limit(resource.RLIMIT_NPROC, self.processes)  # counted for each user, so only with one of its own
        os.umask(0o077)
        os.setgroups([])
        os.setresgid(self.uid, self.uid, self.uid)
        os.setresuid(self.uid, self.uid, self.uid)
        forbid_new_privileges()

    def memory_kills(self) -> int:
        """How many of its processes the kernel has ended for lack of reserved memory; 0 where nobody counts."""
        if self.cgroup is None:
            return 0
        try:
            lines = (Path(self.cgroup) / "memory.events").read_text(encoding="ascii").splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

    def memory_message(self) -> str:
        """What to say of a command that ended for lack of memory."""
        return f"used up the {self.memory_mb} MB of memory that its task reserved; ask for more (memory_mb)"


#: Of a workspace that has none of its own: what holds for everybody.
COMMON = Confinement()


def _limit(what: int, most: int) -> None:
    """Lower a limit to ``most``; one that is lower stays."""
    soft, hard = (most if value == resource.RLIM_INFINITY else min(value, most) for value in resource.getrlimit(what))
    resource.setrlimit(what, (soft, hard))
