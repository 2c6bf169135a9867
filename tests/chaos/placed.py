"""Which node made which workspace and session, read from the agents' own files while they are there."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import defaultdict
from pathlib import Path

_MADE = ("SELECT id FROM workspaces", "SELECT id FROM tombstones", "SELECT id FROM sessions")


class Placed:
    """Looks again and again below ``data_dir``: a node's folder goes away with the node."""

    def __init__(self, data_dir: Path) -> None:
        self._nodes = data_dir / "nodes"
        self._made: defaultdict[str, set[str]] = defaultdict(set)

    def look(self) -> None:
        """Note what each node knows now. A file that is being made or removed is left for the next look."""
        for file in self._nodes.glob("*/agent.db"):
            with (
                contextlib.suppress(sqlite3.Error),
                contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=1)) as store,
            ):
                for question in _MADE:
                    for (made,) in store.execute(question).fetchall():
                        self._made[made].add(file.parent.name)

    def twice(self) -> list[str]:
        """A workspace or session that more than one node has made."""
        return [f"{made} was on {sorted(nodes)}" for made, nodes in self._made.items() if len(nodes) > 1]
