"""How things look on the command line: texts of tasks, events, nodes, and the lines of a progress."""

from __future__ import annotations

import codecs
import json
import re
import shlex
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from taskflow.cli.live import Standing, is_live, make_region
from taskflow.cli.repository import merge_command
from taskflow.words import chosen, duration, money, refused

LOG_PREFIX = "  | "
TAIL_LINES = 10
_FILES_SHOWN = 20
_STEP_WIDTH = 22
_LINE_MAX = 8192
#: Sequences that steer a terminal: OSC and similar strings, CSI, two-byte escapes; then what is left of the controls.
_ESCAPES = re.compile(r"\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]", re.DOTALL)
_SURROGATES = re.compile("[\ud800-\udfff]")  # parts of names that are not UTF-8; no stream takes them
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x80-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: object) -> str:
    """``text`` as one line that can't steer a terminal: it may come from a command or a repository."""
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub("", _ESCAPES.sub("", str(text))))


def clean_lines(text: str) -> str:
    """The same of a text that may have several lines: a server's words may be a provider's or a repository's."""
    return "\n".join(clean(line) for line in text.splitlines())


def to_json(data: Any) -> str:
    """``data`` as JSON for other programs."""
    return json.dumps(data, indent=2)


def seconds_between(start: str | None, end: str | None) -> float | None:
    """Seconds from one ISO 8601 time of the API to another; None when one is missing."""
    if not start or not end:
        return None
    begun, ended = (datetime.fromisoformat(text.replace("Z", "+00:00")) for text in (start, end))
    return max(0.0, (ended - begun).total_seconds())


def second(at: str | None) -> str | None:
    """A time of the API to the second."""
    return None if at is None else f"{at[:19]}Z".replace("T", " ")


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An aligned table; the last column is as wide as it likes."""
    cells = [[clean("-" if cell is None else cell) for cell in row] for row in rows]
    lines = [list(headers), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    return "\n".join("  ".join(cell.ljust(widths[i]) for i, cell in enumerate(line)).rstrip() for line in lines)


def pairs(rows: Iterable[tuple[str, object]], indent: str = "  ") -> str:
    """Names and values, one a line; what is None or empty is left out."""
    kept = [(name, value) for name, value in rows if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in kept), default=0)
    return "\n".join(f"{indent}{name.ljust(width)}  {clean(value)}" for name, value in kept)


class Progress:
    """Lines of something that goes on. On a terminal what goes on at the moment is drawn below them; elsewhere, with
    NO_COLOR and where ``plain`` they are all there is, without control codes."""

    def __init__(self, *, err: bool = False, plain: bool = False) -> None:
        self._err = err
        self._region = make_region(err=err) if not plain and is_live(err=err) else None
        self._lock = threading.Lock()  # the supervisor's thread reports too

    @property
    def is_live(self) -> bool:
        """Whether what goes on at the moment is seen by anybody."""
        return self._region is not None

    def line(self, text: str) -> None:
        """Print a line."""
        with self._lock:
            if self._region is not None:
                self._region.line(text)
            else:
                click.echo(text, err=self._err)

    def provisional(self, what: str | Standing) -> None:
        """Show what goes on at the moment, on a terminal only; the empty text removes it."""
        if self._region is not None:
            with self._lock:
                self._region.show(what)

    def warn(self, text: str) -> None:
        """Print a warning on standard error."""
        text = clean_lines(text)
        with self._lock:
            if self._region is not None:
                self._region.aside(lambda: click.echo(f"warning: {text}", err=True))
            else:
                click.echo(f"warning: {text}", err=True)


class LogLines:
    """Turns chunks of output into whole lines, and remembers the last of them."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def feed(self, data: bytes, *, final: bool = False) -> list[str]:
        """The lines that ``data`` completes; with ``final`` also an unfinished one."""
        *whole, self._rest = (self._rest + self._decoder.decode(data, final)).replace("\r\n", "\n").split("\n")
        if self._rest and (final or len(self._rest) > _LINE_MAX):
            whole.append(self._rest)
            self._rest = ""
        # What a carriage return overwrote (progress bars) is not shown.
        lines = [clean(line.rstrip("\r").rsplit("\r", 1)[-1]) for line in whole]
        self.tail.extend(lines)
        return lines


def step_line(step: str, seconds: float | None) -> str:
    """A step that is over."""
    return f"  {clean(step).ljust(_STEP_WIDTH)} {duration(seconds)}"


def event_line(event: Mapping[str, Any]) -> str | None:
    """An event of a task as a line; None when it says nothing to people."""
    kind, data = event.get("kind"), event.get("data") or {}
    if kind in ("step_entered", "run_finished"):
        line = step_line(data.get("from", "?"), data.get("duration_s"))
        error = data.get("error") if kind == "run_finished" else None
        return f"{line}  {clean(error['message'])}" if error else line
    if kind == "status_changed":
        return f"  -> {clean(data.get('to'))}"
    if kind == "step_failed":
        retry = data.get("retry_in_s")
        again = f", again in {duration(retry)}" if isinstance(retry, (int, float)) else ""
        return (
            f"  {clean(event.get('step'))}: attempt {data.get('attempt')} failed: {clean(data.get('message'))}{again}"
        )
    if kind == "cancel_requested":
        return f"  cancel requested by {clean(event.get('actor'))}"
    if kind == "late_result":
        return "  a result came after the session was taken for lost; it is kept as late_result"
    return None


def result_block(task: Mapping[str, Any], tail: Sequence[str] = ()) -> str:
    """How a task ended: status, output, error with advice, end of the log, merge command."""
    result, error = task.get("result") or {}, task.get("error") or {}
    began = task.get("run_created_at") or task.get("created_at")
    took = duration(seconds_between(began, task.get("completed_at")))
    lines = [f"{clean(task['status'])}   {task['id']}   run {task.get('run_number')}   {took}"]
    merge = merge_command(task)
    branch = result.get("output_branch")
    if branch:
        branch += " (pushed)" if result.get("pushed") else " (not pushed)"
    elif task["status"] == "completed":
        branch = "none: the command changed nothing"
    lines.append(
        pairs(
            [
                ("error", error.get("message")),
                ("at step", error.get("step")),
                ("advice", error.get("advice")),
                ("exit status", result.get("exit_code") if task["status"] != "completed" else None),
                ("output branch", branch),
                ("commit", result.get("commit")),
                ("changed files", _files(result.get("changed_files") or [])),
                ("merge it", merge),
            ]
        )
    )
    if tail:
        lines.append("  log tail")
        lines.extend(f"    {line}" for line in tail)
    return "\n".join(line for line in lines if line)


def _files(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_FILES_SHOWN])
    return shown + (f" and {len(names) - _FILES_SHOWN} more" if len(names) > _FILES_SHOWN else "")


def task_details(task: Mapping[str, Any]) -> str:
    """Everything about a task that people ask for."""
    result, late = task.get("result") or {}, task.get("late_result") or {}
    allowed = task.get("node_loss_reruns")
    ended = task["status"] in ("completed", "failed", "cancelled")
    about = pairs(
        [
            ("title", task.get("title")),
            ("status", _status(task)),
            ("step", task.get("step")),
            ("run", task.get("run_number")),
            ("repository", task.get("repository")),
            ("branch", task.get("branch")),
            ("command", shlex.join(task.get("command") or [])),
            ("setup", shlex.join(task.get("setup_command") or [])),
            ("environment", ", ".join(task.get("env") or {})),
            ("secrets", "yes, not shown" if task.get("has_secrets") else None),
            ("labels", ", ".join(f"{k}={v}" for k, v in (task.get("labels") or {}).items())),
            ("project", task.get("project")),
            ("node", task.get("node_id")),
            ("used", _used(task.get("usage") or {})),
            ("last output", _last_output(task) if task["status"] == "in_progress" else None),
            *_unknown(task.get("unreachable") or {}),
            ("node-loss reruns", f"{task.get('node_loss_reruns_done')} of {allowed}" if allowed else None),
            ("created", task.get("created_at")),
            ("started", task.get("started_at")),
            ("ended", task.get("completed_at")),
            ("late result", _late(late)),
        ]
    )
    block = result_block(task) if ended or result.get("commit") else f"{task['status']}   {task['id']}"
    return f"{block}\n\n{about}"


def _used(usage: Mapping[str, Any]) -> str | None:
    if not usage.get("seconds"):
        return None
    return (
        f"a place for {duration(usage['seconds'])}, {usage['vcpu_seconds'] / 3600:.2f} vCPU hours, "
        f"cost {money(usage['cost'])}"
    )


def _late(found: Mapping[str, Any]) -> str:
    said = " ".join(str(found[k]) for k in ("outcome", "output_branch", "commit") if found.get(k))
    return f"{said} (of run {found['run_number']})" if said and found.get("run_number") else said


def _last_output(found: Mapping[str, Any]) -> object:
    """When a running command last wrote something; None from a server that does not say it."""
    return (found["last_output_at"] or "none yet") if "last_output_at" in found else None


def _unknown(found: Mapping[str, Any]) -> list[tuple[str, object]]:
    """What is known of a task whose node is not heard of."""
    if not found:
        return []
    agent = {True: "its agent answered", False: "its agent did not answer"}.get(
        found.get("agent_answers"),  # type: ignore[arg-type]
        "its agent could not be asked",
    )
    return [
        ("unknown since", found.get("since")),
        ("known", f"{agent}; server: {found.get('server_state') or 'none'}; asked {found.get('asked_at')}"),
        ("given up at", found.get("verdict_at")),
    ]


def _status(task: Mapping[str, Any]) -> str:
    notes = []
    if task.get("cancel_requested"):
        notes.append("cancel requested")
    if task["status"] in ("completed", "failed", "cancelled") and not task.get("finished"):
        notes.append("cleaning up")
    return f"{task['status']} ({', '.join(notes)})" if notes else str(task["status"])


def run_details(run: Mapping[str, Any]) -> str:
    """Everything about a run of a pipeline of one's own that people ask for."""
    error = run.get("error") or {}
    about = pairs(
        [
            ("pipeline", run.get("pipeline")),
            ("subject", run.get("subject")),
            ("run", run.get("number")),
            ("step", run.get("step")),
            ("awaiting", run.get("awaiting")),
            ("until", run.get("deadline_at")),
            ("cancel", "requested" if run.get("cancel_requested") else None),
            ("input", _json_or_none(run.get("input"))),
            ("results", _json_or_none(run.get("results"))),
            ("result", _json_or_none(run.get("result"))),
            ("error", f"{error.get('message')} ({error.get('code')})" if error else None),
            ("created", run.get("created_at")),
            ("ended", run.get("finished_at")),
        ]
    )
    return f"{clean(run['status'])}   {clean(run['id'])}\n\n{about}"


def _json_or_none(value: Any) -> str | None:
    return json.dumps(value) if value else None


def then_of(found: Mapping[str, Any]) -> str:
    """What happens when the time of a step is over; a server of an older release says the word "then" itself."""
    return str(found.get("then") or "").removeprefix("then ")


def why_text(found: Mapping[str, Any], thing_id: str) -> str:
    """What a task or run waits for: the sentence, then the facts, then the choice of its node."""
    error, node, placement = found.get("last_error") or {}, found.get("node") or {}, found.get("placement") or {}
    facts = pairs(
        [
            ("status", found.get("status")),
            ("to run it", f"taskflow run-draft {thing_id}" if found.get("status") == "draft" else None),
            ("step", found.get("step")),
            ("awaiting", found.get("awaiting")),
            ("since", found.get("since")),
            ("until", found.get("until")),
            ("then", then_of(found)),
            ("runner", found.get("runner")),
            ("next look in", duration(found["next_look_in_s"]) if found.get("next_look_in_s") is not None else None),
            ("attempt", found.get("attempt")),
            ("last error", f"{error.get('message')} (attempt {error.get('attempt')})" if error else None),
            ("node", f"{node.get('id')} {node.get('status')} {node.get('address') or ''}" if node else None),
            ("last output", _last_output(found) if found.get("step") == "running" else None),
            *_unknown(found.get("unreachable") or {}),
            ("chosen", chosen(placement) if placement else None),
            *(("not", one) for one in refused(placement)),
        ]
    )
    return f"{clean(found.get('summary'))}\n{facts}"


def to_json_line(data: Any) -> str:
    """``data`` as JSON in one line."""
    return json.dumps(data)
