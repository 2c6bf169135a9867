"""Tasks: submit, run, list, look, cancel, rerun."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from flask import Response, request

from taskflow.service import TaskFilter, Verb
from web import audit, streams
from web.api import answers, following, queries, reports, schemas
from web.api.keys import ONCE, REPLAYED, idempotency_key, idempotency_parameter
from web.api.routes import Routes
from web.auth import API, API_WRITE, caller
from web.door import service

routes = Routes("tasks", "What is to be done, and what became of it")

_TASK = "/api/tasks/<task_id>"
_NO_TASK = "no such task, or not yours"
_Answer = tuple[dict[str, Any], int, Mapping[str, str]]


@routes.add(
    "POST",
    "/api/tasks",
    guard=API_WRITE,
    body=schemas.TaskSpecSchema,
    answers={202: answers.TaskSchema, 201: answers.TaskSchema},
    refusals={
        400: "the input fits, but can't be done",
        409: "the Idempotency-Key was used with other content",
        503: "a store is not usable, or the installation takes no more tasks; nothing was done, see `Retry-After`",
    },
    parameters=[idempotency_parameter("task")],
)
def submit_task(spec: dict[str, Any]) -> _Answer:
    """Submit a task.

    202: it is queued. 201: `start` is false, and it is a draft. `Location` is its address. Submitting again with the
    same `Idempotency-Key` and content makes nothing new.
    """
    task, made = service().tasks.submit(caller(), spec, idempotency_key=idempotency_key())
    headers = {"Location": f"/api/tasks/{task['id']}"}
    return task, 202 if spec["start"] else 201, headers if made else {**headers, **REPLAYED}


@routes.add(
    "GET",
    "/api/tasks",
    guard=API,
    query=queries.TaskListQuerySchema,
    answers={200: answers.TaskPageSchema},
    refusals={400: "no such status or step, or not a cursor of ours"},
)
def list_tasks(query: dict[str, Any]) -> dict[str, Any]:
    """List tasks, newest first, of those that fit all that the query says.

    `next_cursor` goes on after the last one seen: pages neither skip nor repeat while tasks are added.
    """
    page, cursor = service().tasks.list(caller(), task_filter(query), limit=query["limit"], cursor=query["cursor"])
    return {"tasks": page, "next_cursor": cursor}


def task_filter(query: Mapping[str, Any]) -> TaskFilter:
    """What a loaded ``TaskListQuerySchema`` asks for."""
    after, before = query["created_after"], query["created_before"]
    labels = (text.partition(":") for text in query["label"])
    return TaskFilter(
        statuses=queries.words(query["status"]),
        project=query["project"],
        step=query["step"],
        node_id=query["node"],
        labels=tuple((key, value) for key, _, value in labels),
        text=query["text"],
        created_after=None if after is None else after.timestamp(),
        created_before=None if before is None else before.timestamp(),
    )


@routes.add(
    "POST",
    "/api/tasks/cancel",
    guard=API_WRITE,
    body=schemas.CancelManySchema,
    answers={200: reports.OutcomesSchema},
    parameters=[ONCE],
)
def cancel_tasks(body: dict[str, Any]) -> dict[str, Any]:
    """Ask for the cancellation of several tasks.

    Each is treated by itself, and the answer says of each how it went: what one of them refuses is no hindrance to others.
    """
    return _all("cancel", body, body["reason"])


@routes.add(
    "POST",
    "/api/tasks/rerun",
    guard=API_WRITE,
    body=schemas.TaskIdsSchema,
    answers={200: reports.OutcomesSchema},
    parameters=[ONCE],
)
def rerun_tasks(body: dict[str, Any]) -> dict[str, Any]:
    """Run several failed or cancelled tasks again, each by itself; the answer says of each how it went."""
    return _all("rerun", body)


def _all(verb: Verb, body: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
    outcomes = service().repeats.do_all(caller(), verb, body["ids"], reason=reason, key=idempotency_key())
    # By their ids, which are the caller's own tasks; of the others it is known only that they were named.
    done = [one["id"] for one in outcomes if one["task"] is not None]
    audit.note(outcome="done" if done else "failed", data={"done": done, "not_done": len(outcomes) - len(done)})
    return {"outcomes": outcomes}


@routes.add("GET", _TASK, guard=API, answers={200: answers.TaskSchema}, refusals={404: _NO_TASK})
def get_task(task_id: str) -> dict[str, Any]:
    """Show a task."""
    return service().tasks.get(caller(), task_id)


@routes.add(
    "POST",
    f"{_TASK}/run",
    guard=API_WRITE,
    body=schemas.NothingSchema,
    answers={202: answers.TaskSchema},
    refusals={404: _NO_TASK, 409: "it was started already; or the Idempotency-Key was used otherwise"},
    parameters=[ONCE],
)
def run_task(_body: dict[str, Any], task_id: str) -> _Answer:
    """Start a draft."""
    return _once("run", task_id)


@routes.add(
    "POST",
    f"{_TASK}/cancel",
    guard=API_WRITE,
    body=schemas.ReasonSchema,
    answers={202: answers.TaskSchema},
    refusals={404: _NO_TASK, 409: "it has ended; `detail.status` says how; or the Idempotency-Key was used otherwise"},
    parameters=[ONCE],
)
def cancel_task(body: dict[str, Any], task_id: str) -> _Answer:
    """Ask for cancellation.

    The runner makes it true: it stops what runs and cleans up. A task that was never started is cancelled at once.
    """
    return _once("cancel", task_id, body["reason"])


@routes.add(
    "POST",
    f"{_TASK}/rerun",
    guard=API_WRITE,
    body=schemas.NothingSchema,
    answers={202: answers.TaskSchema},
    refusals={
        404: _NO_TASK,
        409: "it has not failed or been cancelled, or still cleans up; or the Idempotency-Key was used otherwise",
    },
    parameters=[ONCE],
)
def rerun_task(_body: dict[str, Any], task_id: str) -> _Answer:
    """Run a failed or cancelled task again, from the start."""
    return _once("rerun", task_id)


def _once(verb: Verb, task_id: str, reason: str | None = None) -> _Answer:
    task, done = service().repeats.do(caller(), verb, task_id, reason=reason, key=idempotency_key())
    return task, 202, {} if done else REPLAYED


@routes.add(
    "GET",
    f"{_TASK}/logs",
    guard=API,
    query=queries.LogQuerySchema,
    answers={200: answers.LogPageSchema},
    refusals={404: _NO_TASK, 503: "no room for a further stream; see `Retry-After`"},
    streamed="`log` for each piece: `id` is its number, `data` `{number, text}`; `end` once the command is over and all"
    " was sent, with what is left of a character that was cut off",
    parameters=[following.PARAMETER],
)
def get_logs(query: dict[str, Any], task_id: str) -> dict[str, Any] | Response:
    """Read or follow the output of a task's command.

    With `Accept: text/plain` the answer is the bytes themselves, and the headers `X-Log-Next` and `X-Log-Ended` say
    what `next` and `ended` say otherwise.
    """
    if streams.wanted():
        return _follow_logs(query, task_id)
    found = service().tasks.logs(caller(), task_id, after=query["after"], limit=query["limit"], run_id=query["run_id"])
    if request.accept_mimetypes.best_match(("application/json", "text/plain")) != "text/plain":
        return found
    raw = b"".join(base64.b64decode(chunk["data"]) for chunk in found["chunks"])
    response = Response(raw, mimetype="text/plain")
    response.headers["X-Log-Next"] = str(found["next"])
    response.headers["X-Log-Ended"] = "true" if found["ended"] else "false"
    return response


def _follow_logs(query: dict[str, Any], task_id: str) -> Response:
    served, who = service(), caller()
    # One run to its end, also when the task is run again meanwhile; a draft has none yet.
    run_id = query["run_id"] or served.tasks.get(who, task_id)["run_id"]

    def page(after: int, limit: int) -> dict[str, Any]:
        return served.tasks.logs(who, task_id, after=after, limit=limit, run_id=run_id)

    begins = following.number_after(query["after"])
    page(begins, 1)  # what does not exist is said with a status, which a stream has sent when it begins
    return streams.stream(following.LogSource(page, begins))


@routes.add("GET", f"{_TASK}/why", guard=API, answers={200: answers.WhySchema}, refusals={404: _NO_TASK})
def explain_task(task_id: str) -> dict[str, Any]:
    """Say what a task waits for, since when, until when, and what happens then."""
    return service().explain.why(caller(), task_id)
