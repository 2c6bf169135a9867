"""The status machine of a task, as one table. The diagram in the docs is drawn from it.

Two rules: everything about legal transitions lives in this file, and ``taskflow.db.tasks.transition`` is the only code
that writes ``tasks.status``.
"""

from __future__ import annotations

#: status -> what it may become. A terminal status leads on only through ``ready``: a rerun with a run of its own.
TRANSITIONS: dict[str, frozenset[str]] = {
    "draft": frozenset({"ready", "cancelled"}),
    "ready": frozenset({"queued", "cancelled"}),
    "queued": frozenset({"delegated", "failed", "cancelled"}),
    "delegated": frozenset({"in_progress", "failed", "cancelled"}),
    "in_progress": frozenset({"completed", "failed", "cancelled"}),
    "completed": frozenset(),
    "failed": frozenset({"ready"}),
    "cancelled": frozenset({"ready"}),
}

STATUSES = tuple(TRANSITIONS)
TERMINAL = frozenset({"completed", "failed", "cancelled"})
ACTIVE = frozenset({"queued", "delegated", "in_progress"})

NODE_STATUSES = ("requested", "creating", "awaiting_agent", "active", "warm", "draining", "destroyed", "error")
#: A node in one of these takes part in selection or may soon.
NODE_USABLE = ("active", "warm")
NODE_COMING = ("requested", "creating", "awaiting_agent")
#: The provider whose nodes are processes of this machine.
LOCAL_PROVIDER = "local"
#: What a run of a pipeline of one's own can be: the first two while it is open.
RUN_STATUSES = ("running", "waiting", "completed", "failed", "cancelled")
WORKSPACE_STATUSES = ("reserved", "dispatched", "ready", "failed", "released")
SESSION_STATUSES = ("started", "ended")


def sources(target: str) -> frozenset[str]:
    """The statuses from which ``target`` is legal."""
    return frozenset(status for status, targets in TRANSITIONS.items() if target in targets)


def mermaid() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> draft", "    [*] --> queued"]
    lines += [f"    {status} --> {target}" for status, targets in TRANSITIONS.items() for target in sorted(targets)]
    lines += [f"    {status} --> [*]" for status in STATUSES if status in TERMINAL]
    return "\n".join(lines)
