"""Which tasks to list: the options of the command line as the query of the API."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import click

from taskflow.clock import Clock, SystemClock

_BACK = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def task_query(
    *,
    status: Sequence[str] = (),
    project: str | None = None,
    step: str | None = None,
    node: str | None = None,
    label: Sequence[str] = (),
    text: str | None = None,
    since: str | None = None,
    before: str | None = None,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """The query. Raises ``click.BadParameter`` for what is no label and no time."""
    now = datetime.fromtimestamp((clock or SystemClock()).now(), timezone.utc)
    query: dict[str, Any] = {
        "status": ",".join(status) or None,
        "project": project,
        "step": step,
        "node": node,
        "label": [_label(one) for one in label] or None,
        "text": text,
        "created_after": _time(since, "--since", now),
        "created_before": _time(before, "--before", now),
    }
    return {name: value for name, value in query.items() if value is not None}


def _label(text: str) -> str:
    key, found, value = text.partition("=")
    if not found or not key or ":" in key:
        raise click.BadParameter(f"{text!r} must be KEY=VALUE, with no colon in KEY", param_hint="'--label'")
    return f"{key}:{value}"


def _time(text: str | None, option: str, now: datetime) -> str | None:
    """A point in time as ISO 8601; one without an offset is of this machine's clock."""
    if text is None:
        return None
    back = _BACK.fullmatch(text)
    try:
        if back:
            at = now - timedelta(**{_UNITS[back[2]]: int(back[1])})
        else:
            at = datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in "zZ" else text).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} must be like 30m, 12h, 7d, 2026-11-26 or 2026-11-26T08:00", param_hint=f"'{option}'"
        ) from None
    return at.isoformat().replace("+00:00", "Z")
