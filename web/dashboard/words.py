"""How values read on a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from taskflow.words import chosen, command_line, compact, duration, money, number, plain, refused

#: Status of a task -> the group it is shown as; the names of groups are the classes of their colours.
_GROUPS = {
    "draft": "idle", "ready": "waiting", "queued": "waiting", "delegated": "running", "in_progress": "running",
    "completed": "good", "failed": "bad", "cancelled": "idle",
    # nodes, workspaces, sweeps, checks
    "requested": "waiting", "creating": "waiting", "awaiting_agent": "waiting", "active": "good", "warm": "good",
    "draining": "waiting", "destroyed": "idle", "error": "bad", "unreachable": "bad", "reserved": "waiting",
    "dispatched": "waiting", "released": "idle", "ok": "good", "late": "bad", "degraded": "bad", "paused": "idle",
    "new": "idle", "unknown": "idle", "warning": "waiting", "running": "running", "waiting": "waiting",
}  # fmt: skip


_NEEDS = {"provider": "provider {}", "location": "at {}", "vcpus": "{} vCPU", "memory_mb": "{} MB of memory"}


def epoch(text: str) -> float:
    """An ISO 8601 time of ours in seconds."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def between(begun: str | None, ended: str | None, now: float | None = None) -> str:
    """How long something took, or has been going on if it has not ended and ``now`` is given."""
    if not begun or (not ended and now is None):
        return "-"
    end = epoch(ended) if ended else float(now or 0.0)
    return duration(max(0.0, end - epoch(begun)))


def moment(text: str | None) -> str:
    """A time to the second, in UTC; scripts show it in the reader's words."""
    return "-" if not text else f"{text[:10]} {text[11:19]} UTC"


def group(status: str) -> str:
    """The class of a status' colour."""
    return _GROUPS.get(status, "idle")


def words(name: str) -> str:
    """A name of ours as words."""
    return name.replace("_", " ")


def sentence(text: str) -> str:
    """A text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def lines(data: Mapping[str, Any]) -> str:
    """What somebody gave or a step returned, each in a line of its own and as it is."""
    return "\n".join(f"{name}: {plain(value)}" for name, value in data.items())


def needs(resources: Mapping[str, Any]) -> str:
    """What a task asked of its node."""
    found = {name: value for name, value in resources.items() if value is not None}
    said = [says.format(_figure(found.pop(name))) for name, says in _NEEDS.items() if name in found]
    if found.pop("location_policy", None) == "prefer":
        said.append("or elsewhere")
    return ", ".join(one for one in (*said, compact(found)) if one)


def _figure(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def tally(result: Mapping[str, Any]) -> str:
    """What a scheduled job counted, without what it counted none of."""
    counts = {name: value for name, value in result.items() if isinstance(value, int) and not isinstance(value, bool)}
    said = [f"{value} {words(name)}" for name, value in counts.items() if value]
    said.append(compact({name: value for name, value in result.items() if name not in counts}))
    return ", ".join(one for one in said if one) or ("nothing to do" if result else "")


def as_json(value: Any) -> str:
    """As JSON that one reads."""
    return json.dumps(value, indent=2, ensure_ascii=False)


FILTERS: dict[str, Callable[..., Any]] = {
    "duration": duration, "between": between, "moment": moment, "group": group, "words": words, "sentence": sentence,
    "shell": command_line, "money": money, "compact": compact, "lines": lines, "chosen": chosen, "refused": refused,
    "number": number, "as_json": as_json, "tally": tally, "needs": needs,
}  # fmt: skip
