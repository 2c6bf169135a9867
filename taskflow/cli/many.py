"""Cancelling and running again, of one thing or of several at once: each is treated by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from taskflow.cli import render
from taskflow.cli.client import Api, is_run
from taskflow.cli.problems import FAILED, OK, CommandError

#: As many as the API takes in one request.
_AT_ONCE = 100
_WRONG = 422


def on_each(api: Api, verb: str, ids: Sequence[str], *, reason: str | None, as_json: bool) -> int:
    """Cancel or rerun tasks and runs, and say of each how it went; ``FAILED`` when one was refused."""
    outcomes = _outcomes(api, verb, list(dict.fromkeys(ids)), reason)
    if as_json:
        click.echo(render.to_json({"outcomes": outcomes}))
    for one in () if as_json else outcomes:
        if one["error"]:
            click.echo(render.clean(f"{one['id']}: {one['error']['message']}"), err=True)
        else:
            click.echo(said(verb, one.get("run") or one["task"]))
    return FAILED if any(one["error"] for one in outcomes) else OK


def said(verb: str, thing: Mapping[str, Any]) -> str:
    """What became of a task or run that was cancelled or run again."""
    status = thing["status"]
    if verb == "rerun":
        return f"{thing['id']}: run {thing['number' if is_run(thing['id']) else 'run_number']} is {status}"
    done = status == "cancelled" and not is_run(thing["id"])
    return f"{thing['id']}: {'cancelled' if done else f'cancel requested; it is {status}'}"


def _outcomes(api: Api, verb: str, ids: Sequence[str], reason: str | None) -> list[dict[str, Any]]:
    """One for each id, in their order, as the API gives them; a run's has ``run`` in place of ``task``.

    Raises ``CommandError`` when already the first request fails: nothing was done then.
    """
    found: dict[str, dict[str, Any]] = {}
    tasks = [one for one in ids if not is_run(one)]
    for begin in range(0, len(tasks), _AT_ONCE):
        part = tasks[begin : begin + _AT_ONCE]
        try:
            answer = api.do_many(verb, part, reason)
        except CommandError as error:
            if error.status == _WRONG and len(part) > 1:  # one of them is no id: each by itself
                found |= {one: _alone(api, verb, one, reason) for one in part}
                continue
            if not found:
                raise
            found |= {one: _refused(one, error) for one in part}
        else:
            found |= {one["id"]: one for one in answer["outcomes"]}
    for run_id in (one for one in ids if is_run(one)):
        try:
            run = api.cancel(run_id, reason) if verb == "cancel" else api.rerun(run_id)
            found[run_id] = {"id": run_id, "status": 202, "task": None, "run": run, "error": None}
        except CommandError as error:
            if not found and error.status in (None, 401):
                raise
            found[run_id] = _refused(run_id, error)
    return [found[one] for one in ids]


def _alone(api: Api, verb: str, task_id: str, reason: str | None) -> dict[str, Any]:
    try:
        found: dict[str, Any] = api.do_many(verb, [task_id], reason)["outcomes"][0]
        return found
    except CommandError as error:
        return _refused(task_id, error)


def _refused(thing_id: str, error: CommandError) -> dict[str, Any]:
    said = {"code": error.code, "message": error.why, "advice": error.advice, "detail": error.detail}
    return {"id": thing_id, "status": error.status, "task": None, "error": said}
