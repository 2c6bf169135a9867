"""What ``taskflow top`` shows: gathered over the HTTP API, request by request bounded, then drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from taskflow.cli import render
from taskflow.cli.client import Api
from taskflow.cli.problems import CommandError

#: Open tasks that are counted and listed at most; the newest first.
TASKS_MAX = 200
_ENDED_MAX = 5
#: Tasks that are asked at each refresh what they wait for; the others have their turn at the next ones.
_WHY_EACH = 5
_EVENTS_KEPT = 8
_TITLE_WIDTH = 20
_OPEN = ("queued", "delegated", "in_progress")
#: What a task in such a step does: it waits for somebody, or something runs.
_RUNNING = ("running",)
_COLOURS = {"failed": "red", "cancelled": "yellow", "completed": "green", "in_progress": "cyan"}


class Overview:
    """Gathers what there is to see. ``look`` asks the server once; what it learned of waits and events is kept."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._cursor: str | None = "now"
        self._events: list[dict[str, Any]] = []
        self._whys: dict[str, dict[str, Any]] = {}
        self._turn = 0

    def look(self) -> dict[str, Any]:
        """Everything, as JSON: health, counts, steps, tasks, ended, nodes, alarms, events. Raises ``CommandError``."""
        page = self._api.tasks(wanted={"status": ",".join(_OPEN)}, limit=TASKS_MAX)
        tasks = page["tasks"]
        ended = self._api.tasks(wanted={"status": "failed"}, limit=_ENDED_MAX)["tasks"]
        nodes = self._api.nodes()
        self._ask_whys([task["id"] for task in tasks])
        shown = [{**task, "why": self._whys.get(task["id"])} for task in tasks]
        running = sum(1 for task in tasks if task["step"] in _RUNNING)
        return {
            "health": self._health(),
            "counts": {"running": running, "waiting": len(tasks) - running, "failing": _failing(shown)},
            "more": page["next_cursor"] is not None,
            "steps": dict(Counter(task["step"] or "-" for task in tasks).most_common()),
            "alarms": {
                "late": sum(1 for one in self._whys.values() if one.get("runner") == "overdue"),
                "missing": sum(1 for one in self._whys.values() if one.get("runner") == "missing"),
                "asked": len(self._whys),
            },
            "tasks": shown,
            "failed": ended,
            "nodes": nodes,
            "events": self._news(),
        }

    def why(self, task_id: str) -> dict[str, Any]:
        """What one task waits for, now. Raises ``CommandError``."""
        return self._api.why(task_id)

    def _health(self) -> dict[str, Any]:
        try:
            return self._api.ready()
        except CommandError as error:
            checks = (error.detail or {}).get("checks") or {"server": error.why}
            return {"ready": False, "checks": checks}

    def _ask_whys(self, open_ids: Sequence[str]) -> None:
        """Ask a few of the open tasks, in turn; one that ended meanwhile is left out."""
        self._whys = {task_id: said for task_id, said in self._whys.items() if task_id in set(open_ids)}
        for number in range(min(_WHY_EACH, len(open_ids))):
            task_id = open_ids[(self._turn + number) % len(open_ids)]
            try:
                self._whys[task_id] = self._api.why(task_id)
            except CommandError as error:
                if error.status != 404:
                    raise
        self._turn += _WHY_EACH

    def _news(self) -> list[dict[str, Any]]:
        found = self._api.feed(self._cursor)
        self._cursor = found["next"] or self._cursor
        self._events = [*self._events, *found["events"]][-_EVENTS_KEPT:]
        return list(self._events)


def _failing(tasks: Sequence[Mapping[str, Any]]) -> int:
    """Open tasks whose step failed at its last attempt, or that end badly."""
    return sum(1 for task in tasks if (task["why"] or {}).get("last_error") or task["error"])


def frame(found: Mapping[str, Any], *, selected: int = 0, rows: int = 15, note: str = "") -> RenderableType:
    """The whole screen; ``selected``: the task with the mark, ``rows``: tasks that fit, ``note``: said below them."""
    parts: list[RenderableType] = [_head(found), _tasks(found, selected, rows)]
    if note:
        parts.append(Panel(Text(note), title="why", title_align="left"))
    parts.append(_nodes(found["nodes"]))
    if found["failed"]:
        parts.append(_failed(found["failed"]))
    if found["events"]:
        parts.append(_events(found["events"]))
    return Group(*parts)


def _head(found: Mapping[str, Any]) -> RenderableType:
    counts, alarms, health = found["counts"], found["alarms"], found["health"]
    more = "+" if found["more"] else ""
    line = Text()
    line.append(f"{counts['running']} running", "bold cyan")
    line.append(f"   {counts['waiting']}{more} waiting", "bold")
    line.append(f"   {counts['failing']} failing", "bold red" if counts["failing"] else "dim")
    late = alarms["late"] + alarms["missing"]
    line.append(f"   alarms late {late} of {alarms['asked']} asked", "bold red" if late else "dim")
    checks = Text("ready   " if health["ready"] else "NOT READY   ", "green" if health["ready"] else "bold red")
    for name, says in sorted(health["checks"].items()):
        checks.append(f"{render.clean(name)} ", "dim")
        checks.append(f"{render.clean(says)}   ", "dim" if says == "ok" else "red")
    steps = Text("steps   ", "dim")
    steps.append("   ".join(f"{render.clean(name)} {count}" for name, count in found["steps"].items()) or "none")
    return Group(line, checks, steps, Text())


def _table(*headers: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    for number, header in enumerate(headers):
        last = number == len(headers) - 1
        table.add_column(header, no_wrap=True, overflow="ellipsis", ratio=1 if last else None)
    return table


def _tasks(found: Mapping[str, Any], selected: int, rows: int) -> RenderableType:
    tasks = found["tasks"]
    table = _table("", "TASK", "TITLE", "STATUS", "STEP", "SINCE", "WAITS FOR")
    table.columns[2].max_width = _TITLE_WIDTH
    first = max(0, min(selected - rows + 1, len(tasks) - rows))
    for number, task in enumerate(tasks[first : first + rows], first):
        why = task["why"] or {}
        waited_s = why.get("waited_s")
        says = render.since_left_out(why.get("summary") or "")
        table.add_row(
            ">" if number == selected else " ", task["id"], Text(render.clean(task["title"])),
            Text(task["status"], _COLOURS.get(task["status"], "")),
            Text(render.clean(task["step"] or "-")), render.duration(waited_s), Text(says),
            style="bold" if number == selected else "",
        )  # fmt: skip
    if not tasks:
        return Text("no task is under way\n", "dim")
    hidden = len(tasks) - rows
    return Group(table, Text(f"  {hidden} more\n" if hidden > 0 else "", "dim"))


def _nodes(nodes: Sequence[Mapping[str, Any]]) -> RenderableType:
    if not nodes:
        return Text("no nodes\n", "dim")
    table = _table("NODE", "PROVIDER", "STATUS", "WORKSPACES", "HEARTBEAT", "LOAD", "ERROR")
    for node in nodes[:10]:
        table.add_row(
            node["id"], Text(render.clean(node["provider"])),
            Text(node["status"], "red" if node["status"] == "error" or node.get("unreachable_since") else ""),
            f"{node['live_workspaces']}/{node['slots']}", render.duration(node["heartbeat_age_s"]),
            "-" if node["load1"] is None else f"{node['load1']:g}",
            Text(render.clean((node["error"] or {}).get("message") or "")),
        )  # fmt: skip
    return Group(table, Text())


def _failed(tasks: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = _table("FAILED LAST", "AT", "WHY")
    for task in tasks:
        says = render.clean((task["error"] or {}).get("message") or task["title"])
        table.add_row(task["id"], (task["completed_at"] or "-")[:19], Text(says, "red"))
    return Group(table, Text())


def _events(events: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = _table("EVENT", "OF", "WHAT")
    for event in events:
        what = f"{event['kind']} {event['step'] or ''}"
        table.add_row(str(event["at"])[11:19], event["subject_id"], Text(render.clean(what)))
    return table
