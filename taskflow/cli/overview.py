"""What ``taskflow top`` shows: gathered over the HTTP API, request by request bounded, then drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, OverflowMethod, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from taskflow.cli import render
from taskflow.cli.client import Api
from taskflow.cli.live import overflow_on
from taskflow.cli.problems import CommandError
from taskflow.words import duration

#: Open tasks, and open runs, that are counted and listed at most; the newest first.
TASKS_MAX = 200
_ENDED_MAX = 5
#: Tasks and runs that are asked at each refresh what they wait for; the others have their turn at the next ones.
_WHY_EACH = 5
_EVENTS_KEPT = 8
_TITLE_WIDTH = 20
#: A terminal of fewer columns is spared these, so that what is waited for, and what is wrong with a node, has room.
_WIDE = 110
_SPARED = frozenset({"TITLE", "STATUS", "WORKSPACES", "LOAD"})
_OPEN = ("queued", "delegated", "in_progress")
_OPEN_RUN = ("running", "waiting")
#: What a task in such a step, or a run of such a status, does: something runs; in any other it waits for somebody.
_RUNNING = "running"
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
        """Everything, as JSON: health, counts, steps, tasks, runs, what failed, nodes, alarms, events. Raises
        ``CommandError``."""
        page = self._api.tasks(wanted={"status": ",".join(_OPEN)}, limit=TASKS_MAX)
        page_of_runs = self._api.runs(wanted={"status": ",".join(_OPEN_RUN)}, limit=TASKS_MAX)
        tasks, runs = page["tasks"], page_of_runs["runs"]
        nodes = self._api.nodes()
        self._ask_whys([one["id"] for one in (*tasks, *runs)])
        tasks, runs = ([{**one, "why": self._whys.get(one["id"])} for one in each] for each in (tasks, runs))
        under_way = len(tasks) + len(runs)
        running = sum(1 for task in tasks if task["step"] == _RUNNING)
        running += sum(1 for run in runs if run["status"] == _RUNNING)
        steps = [task["step"] or "-" for task in tasks] + [f"{run['pipeline']}.{run['step']}" for run in runs]
        return {
            "health": self._health(),
            "counts": {"running": running, "waiting": under_way - running, "failing": _failing([*tasks, *runs])},
            "more": page["next_cursor"] is not None or page_of_runs["next_cursor"] is not None,
            "steps": dict(Counter(steps).most_common()),
            "alarms": {
                "late": sum(1 for one in self._whys.values() if one.get("runner") == "overdue"),
                "missing": sum(1 for one in self._whys.values() if one.get("runner") == "missing"),
                "asked": len(self._whys),
            },
            "tasks": tasks,
            "runs": runs,
            "failed": self._api.tasks(wanted={"status": "failed"}, limit=_ENDED_MAX)["tasks"],
            "failed_runs": self._api.runs(wanted={"status": "failed"}, limit=_ENDED_MAX)["runs"],
            "nodes": nodes,
            "events": self._news(),
        }

    def why(self, task_id: str) -> dict[str, Any]:
        """What one task or run waits for, now. Raises ``CommandError``."""
        return self._api.why(task_id)

    def _health(self) -> dict[str, Any]:
        try:
            return self._api.ready()
        except CommandError as error:
            checks = (error.detail or {}).get("checks") or {"server": error.why}
            return {"ready": False, "checks": checks}

    def _ask_whys(self, open_ids: Sequence[str]) -> None:
        """Ask a few of what is open, in turn; what ended meanwhile is left out."""
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


def under_way(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The open tasks, and after them the open runs of pipelines of one's own, in the order in which they are drawn."""
    return [*found["tasks"], *found["runs"]]


def _failing(tasks: Sequence[Mapping[str, Any]]) -> int:
    """Open tasks and runs whose step failed at its last attempt, or that end badly."""
    return sum(1 for task in tasks if (task["why"] or {}).get("last_error") or task["error"])


@dataclass(frozen=True)
class Look:
    """How a terminal wants it: columns left out where there is no room, and how what is too wide is cut."""

    left_out: frozenset[str] = frozenset()
    overflow: OverflowMethod = "ellipsis"

    @classmethod
    def on(cls, console: Console) -> Look:
        """That of this terminal."""
        return cls(_SPARED if console.width < _WIDE else frozenset(), overflow_on(console))

    def table(self, headers: Sequence[str], rows: Iterable[Mapping[str, RenderableType]], marked: int = -1) -> Table:
        """A table whose last column has the rest of the width; the row ``marked`` stands out."""
        shown = [header for header in headers if header not in self.left_out]
        table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
        for header in shown:
            table.add_column(
                header, no_wrap=True, overflow=self.overflow, ratio=1 if header == shown[-1] else None,
                max_width=_TITLE_WIDTH if header == "TITLE" else None,
            )  # fmt: skip
        for number, row in enumerate(rows):
            table.add_row(*(row[header] for header in shown), style="bold" if number == marked else "")
        return table


def frame(
    found: Mapping[str, Any], *, selected: int = 0, rows: int = 15, note: str = "", look: Look = Look()
) -> RenderableType:
    """The whole screen; ``selected``: the line with the mark, ``rows``: lines that fit, ``note``: said below them."""
    parts: list[RenderableType] = [_head(found), _tasks(found, selected, rows, look)]
    if note:
        parts.append(Panel(Text(note), title="why", title_align="left"))
    parts.append(_nodes(found["nodes"], look))
    if found["failed"] or found["failed_runs"]:
        parts.append(_failed([*found["failed"], *found["failed_runs"]], look))
    if found["events"]:
        parts.append(_events(found["events"], look))
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


def _tasks(found: Mapping[str, Any], selected: int, rows: int, look: Look) -> RenderableType:
    tasks = under_way(found)
    if not tasks:
        return Text("no task is under way\n", "dim")
    first = max(0, min(selected - rows + 1, len(tasks) - rows))
    shown = [
        _task(task, mark=">" if number == selected else " ")
        for number, task in enumerate(tasks[first : first + rows], first)
    ]
    headers = ("", "TASK", "TITLE", "STATUS", "STEP", "SINCE", "WAITS FOR")
    hidden = len(tasks) - rows
    table = look.table(headers, shown, marked=selected - first)
    return Group(table, Text(f"  {hidden} more\n" if hidden > 0 else "", "dim"))


def _task(task: Mapping[str, Any], *, mark: str) -> dict[str, RenderableType]:
    why = task["why"] or {}
    return {
        "": mark, "TASK": task["id"], "TITLE": Text(render.clean(_title(task))),
        "STATUS": Text(task["status"], _COLOURS.get(task["status"], "")),
        "STEP": Text(render.clean(task["step"] or "-")), "SINCE": duration(why.get("waited_s")),
        "WAITS FOR": Text(render.clean(why.get("summary") or "")),
    }  # fmt: skip


def _title(one: Mapping[str, Any]) -> str:
    """That of a task; of a run its pipeline and what it is about."""
    return str(one["title"]) if "title" in one else f"{one['pipeline']} {one['subject'] or ''}".rstrip()


def _ended_at(one: Mapping[str, Any]) -> str:
    """When a task or a run ended, as text that sorts; '': not yet."""
    return str((one["completed_at"] if "completed_at" in one else one["finished_at"]) or "")


def _nodes(nodes: Sequence[Mapping[str, Any]], look: Look) -> RenderableType:
    if not nodes:
        return Text("no nodes\n", "dim")
    rows: list[Mapping[str, RenderableType]] = [
        {
            "NODE": node["id"], "PROVIDER": Text(render.clean(node["provider"])),
            "STATUS": Text(node["status"], "red" if node["status"] == "error" or node.get("unreachable_since") else ""),
            "WORKSPACES": f"{node['live_workspaces']}/{node['slots']}",
            "HEARTBEAT": duration(node["heartbeat_age_s"]),
            "LOAD": "-" if node["load1"] is None else f"{node['load1']:g}",
            "ERROR": Text(render.clean((node["error"] or {}).get("message") or "")),
        }
        for node in nodes[:10]
    ]  # fmt: skip
    # Of a node its state is asked first, of a task what it waits for.
    states = Look(look.left_out - {"STATUS"}, look.overflow)
    headers = ("NODE", "PROVIDER", "STATUS", "WORKSPACES", "HEARTBEAT", "LOAD", "ERROR")
    return Group(states.table(headers, rows), Text())


def _failed(tasks: Sequence[Mapping[str, Any]], look: Look) -> RenderableType:
    rows: list[Mapping[str, RenderableType]] = [
        {
            "FAILED LAST": task["id"], "AT": (_ended_at(task) or "-")[:19],
            "WHY": Text(render.clean((task["error"] or {}).get("message") or _title(task)), "red"),
        }
        for task in sorted(tasks, key=_ended_at, reverse=True)[:_ENDED_MAX]
    ]  # fmt: skip
    return Group(look.table(("FAILED LAST", "AT", "WHY"), rows), Text())


def _events(events: Sequence[Mapping[str, Any]], look: Look) -> RenderableType:
    rows: list[Mapping[str, RenderableType]] = [
        {
            "EVENT": str(event["at"])[11:19], "OF": event["subject_id"],
            "WHAT": Text(render.clean(f"{event['kind']} {event['step'] or ''}")),
        }
        for event in events
    ]  # fmt: skip
    return look.table(("EVENT", "OF", "WHAT"), rows)
