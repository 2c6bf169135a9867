"""How lengths of time, numbers, amounts and choices are written for people, in the terminal and on pages alike."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

_SHELLS = (("sh", "-c"), ("bash", "-c"))


def command_line(arguments: Sequence[str] | None) -> str:
    """A command as one would type it; what was given to a shell as it was given. ``None``: as none."""
    if arguments and len(arguments) == 3 and tuple(arguments[:2]) in _SHELLS and (text := arguments[2].strip()):
        return text
    return shlex.join(arguments or ())


def duration(seconds: float | None) -> str:
    """A length of time; ``-`` for none."""
    if seconds is None:
        return "-"
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} days {hours % 24} h" if hours % 24 else f"{hours // 24} days"


def money(amount: float | None) -> str:
    """An amount: cents, and more digits where it is less than that; ``-`` for none."""
    if amount is None:
        return "-"
    return f"{amount:.2f}" if amount == 0 or amount >= 0.01 else f"{amount:.4f}"


def number(value: float) -> str:
    """A number as one types it: all of its digits, no exponent, no zeros behind the point."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def compact(data: Mapping[str, Any]) -> str:
    """What an event says, in one line; seconds are read as times."""
    told = {}
    for name, value in data.items():
        is_time = name.endswith("_s") and isinstance(value, (int, float)) and not isinstance(value, bool)
        told[name.removesuffix("_s") if is_time else name] = duration(value) if is_time else value
    return ", ".join(f"{name}: {plain(value)}" for name, value in told.items() if value not in (None, "", [], {}))


def plain(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def chosen(placement: Mapping[str, Any]) -> str:
    """Which node a task was given, and why: of the choice that is stored with it."""
    offer = placement.get("offer") or {}
    where = "none yet"
    if placement.get("action") == "provision":
        where = " ".join(("a new node of", *(str(one) for one in offer.values() if one)))
    elif placement.get("action") in ("use", "await_node"):
        where = str(placement.get("node_id"))
    return f"{where}: {placement.get('reason')}"


def refused(placement: Mapping[str, Any]) -> Sequence[str]:
    """What spoke against each of the others: nodes, offers, and providers that sell nothing now."""
    return [f"{_candidate(one)}: {one.get('reason')}" for one in placement.get("rejected") or ()]


def _candidate(one: Mapping[str, Any]) -> str:
    # An offer "@" has neither size nor place: it is all that its provider has.
    named = [str(one[name]) for name in ("provider", "offer") if one.get(name) not in (None, "", "@")]
    return str(one.get("node_id") or " ".join(named))
