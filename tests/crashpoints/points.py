"""The list of crash points (``points.txt``): recorded from undisturbed walks, and how a day's sample is chosen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

LIST = Path(__file__).with_name("points.txt")
#: Points that a walk reaches for certain only when another worker died before: a hint or a ring was lost with its
#: process, and the pump or the outbox makes up for it.
LOST_HINT = "before:publish@agent_task.workspace_creation"
LOST_RING = "after:sql-commit@agent_task.cleanup"
CHAINS = {
    **{f"{moment}:publish@pump": LOST_HINT for moment in ("before", "after")},
    **{
        f"{moment}:{call}@sweep:outbox": LOST_RING
        for moment in ("before", "after")
        for call in ("lua:signal", "publish")
    },
}
#: What a rescue, or a pump that stands in for it or meets a new incarnation, finds to mend: chance in a healthy walk. So is
#: a sweep that comes less often than a walk takes.
_CHANCE = (
    "lua:ensure@pump", "sql-begin@pump", "sql-commit@pump", "lua:forget@turn", "lua:forget@sweep:rescue",
    "lua:signal@sweep:rescue", "publish@sweep:rescue", "lua:signal@sweep:stuck_tasks", "publish@sweep:stuck_tasks",
    "sql-begin@sweep:share_nodes", "sql-read@sweep:share_nodes", "sql-commit@sweep:share_nodes",
)  # fmt: skip


def listed() -> list[str]:
    """The points of an undisturbed walk."""
    return LIST.read_text(encoding="utf-8").split("\n")[:-1]


def kept(seen: Iterable[str]) -> set[str]:
    """What of the points seen belongs into the list.

    Nothing happens between the end of one reading transaction and the next call, so the place before it is enough.
    """
    return {
        point
        for point in seen
        if not point.startswith("after:sql-read@") and point.partition(":")[2] not in _CHANCE and point not in CHAINS
    }


def all_points() -> list[tuple[str, ...]]:
    """Every case: the points at which one worker after the other dies."""
    return [*((point,) for point in listed()), *((first, then) for then, first in CHAINS.items())]


def sample(day: int, size: int) -> list[tuple[str, ...]]:
    """About ``size`` cases from all over the list, others on the next day; after a round each was chosen."""
    cases = all_points()
    stride = -(-len(cases) // size)
    return cases[day % stride :: stride]


def touched_steps(points: Iterable[str]) -> set[str]:
    """The ``<pipeline>.<step>`` that some point lies in."""
    return {where for point in points if "." in (where := point.partition("@")[2])}
