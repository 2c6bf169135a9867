"""A history as far as a page shows one: the newest of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: A page is drawn anew with each event, so what it reads is bounded; the API has all of it.
EVENTS_READ = 1000
_EVENTS_SHOWN = 200


@dataclass(frozen=True)
class History:
    """``events``: the newest ``EVENTS_READ`` at most, in order."""

    events: Sequence[dict[str, Any]]

    @property
    def is_cut(self) -> bool:
        """Whether there may be older ones."""
        return len(self.events) >= EVENTS_READ

    @property
    def shown(self) -> list[dict[str, Any]]:
        """Those that are listed, newest first."""
        return list(reversed(self.events[-_EVENTS_SHOWN:]))

    @property
    def after(self) -> int:
        """Where whoever follows it goes on."""
        return self.events[-1]["seq"] if self.events else 0

    @property
    def says(self) -> str:
        """How many there are, and how many of them are listed."""
        many = f"{EVENTS_READ} or more" if self.is_cut else str(len(self.events))
        return many if len(self.events) <= _EVENTS_SHOWN else f"{many}, the newest {_EVENTS_SHOWN}"
