"""Runs of pipelines of one's own: start, list, look, signal, cancel, run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import Response

from taskflow.service import RunFilter
from web import audit, streams
from web.api import answers, following, queries, schemas
from web.api.keys import MESSAGE, REPLAYED, WELCOME, idempotency_key, idempotency_parameter
from web.api.routes import Routes
from web.auth import API, API_WRITE, RUN, caller
from web.door import service

routes = Routes("runs", "Runs of pipelines of your own")
callback_routes = Routes("callbacks of runs", "Signals that outside systems send to runs")

_RUN = "/api/runs/<run_id>"
_NO_RUN = "no such run, or not yours"
_FULL = "a store is not usable, or the installation takes no more runs; nothing was done, see `Retry-After`"
_EVENT = answers.EventSchema()
_Answer = tuple[dict[str, Any], int, dict[str, str]]
_SIGNAL_REFUSALS = {
    404: _NO_RUN,
    409: "another answer came first",
    410: "the run has ended",
    429: "too many signals wait for the run, or too many requests; see `Retry-After`",
}


@routes.add(
    "POST",
    "/api/runs",
    guard=API_WRITE,
    body=schemas.RunSpecSchema,
    answers={202: answers.RunSchema},
    refusals={
        400: "no such pipeline is registered",
        409: "a run is open for this subject, or the Idempotency-Key was used with other content",
        503: _FULL,
    },
    parameters=[idempotency_parameter("run")],
)
def start_run(spec: dict[str, Any]) -> _Answer:
    """Start a run of a pipeline of your own.

    `input` must fit the pipeline's schema; `fields` of a 422 names what does not, as `input.<name>`. Starting again with
    the same `Idempotency-Key` and content makes nothing new.
    """
    run, made = service().runs.start(
        caller(), spec["pipeline"], spec["input"], subject=spec["subject"], idempotency_key=idempotency_key()
    )
    return _started(run, made)


@routes.add(
    "GET",
    "/api/runs",
    guard=API,
    query=queries.RunListQuerySchema,
    answers={200: answers.RunPageSchema},
    refusals={400: "no such status, or not a cursor of ours"},
)
def list_runs(query: dict[str, Any]) -> dict[str, Any]:
    """List runs of pipelines of your own, newest first, of those that fit all that the query says.

    What a run was given and what it left is shown with the run itself.
    """
    wanted = RunFilter(queries.words(query["status"]), query["pipeline"], query["subject"], query["finished"])
    page, cursor = service().runs.list(caller(), wanted, limit=query["limit"], cursor=query["cursor"])
    return {"runs": page, "next_cursor": cursor}


@routes.add("GET", "/api/pipelines", guard=API, answers={200: answers.PipelineListSchema})
def list_pipelines() -> dict[str, Any]:
    """List the pipelines of your own that runs can be started of, with what each takes and waits for.

    They are those of the process that answers, the same for every owner. An input that fits `input_schema` may still be
    refused: checks that are code of the pipeline are not in it.
    """
    return {"pipelines": service().pipelines.list()}


@routes.add("GET", _RUN, guard=API, answers={200: answers.RunSchema}, refusals={404: _NO_RUN})
def get_run(run_id: str) -> dict[str, Any]:
    """Show a run."""
    return service().runs.get(caller(), run_id)


@routes.add(
    "POST",
    f"{_RUN}/cancel",
    guard=API_WRITE,
    body=schemas.ReasonSchema,
    answers={202: answers.RunSchema},
    refusals={404: _NO_RUN, 409: "it has ended; `detail.status` says how"},
    parameters=[WELCOME],
)
def cancel_run(body: dict[str, Any], run_id: str) -> dict[str, Any]:
    """Ask for cancellation; the runner makes it true, and cleans up."""
    idempotency_key()
    return service().runs.cancel(caller(), run_id, body["reason"])


@routes.add(
    "POST",
    f"{_RUN}/rerun",
    guard=API_WRITE,
    body=schemas.NothingSchema,
    answers={202: answers.RunSchema},
    refusals={
        400: "its pipeline is not registered any more",
        404: _NO_RUN,
        409: "it has not failed or been cancelled, another run is open for its subject, or the Idempotency-Key was used"
        " with other content",
        503: _FULL,
    },
    parameters=[idempotency_parameter("run")],
)
def rerun_run(_body: dict[str, Any], run_id: str) -> _Answer:
    """Start a failed or cancelled run again with the same input. The answer is the new run.

    Asking again with the same `Idempotency-Key` makes nothing new.
    """
    return _started(*service().runs.rerun(caller(), run_id, idempotency_key=idempotency_key()))


def _started(run: dict[str, Any], made: bool) -> _Answer:
    headers = {"Location": f"/api/runs/{run['id']}"}
    return run, 202, headers if made else {**headers, **REPLAYED}


@routes.add(
    "GET",
    f"{_RUN}/events",
    guard=API,
    query=queries.EventQuerySchema,
    answers={200: answers.EventListSchema},
    refusals={404: _NO_RUN, 503: "no room for a further stream; see `Retry-After`"},
    streamed="each event: `id` is its `seq`, `event` its kind, `data` the event as JSON",
    parameters=[following.PARAMETER],
)
def list_run_events(query: dict[str, Any], run_id: str) -> dict[str, Any] | Response:
    """List or follow what happened to a run, in order. `seq` counts the events of its subject."""
    served, who = service(), caller()
    if not streams.wanted():
        events = served.runs.events(who, run_id, after=query["after"], limit=query["limit"])
        return {"events": events, "next": events[-1]["seq"] if events else query["after"]}

    def page(after: int, limit: int = following.EVENTS_AT_ONCE) -> tuple[Sequence[Mapping[str, Any]], int]:
        found = [_EVENT.dump(event) for event in served.runs.events(who, run_id, after=after, limit=limit)]
        return found, found[-1]["seq"] if found else after

    begins = following.number_after(query["after"])
    page(begins, 1)  # what does not exist is said with a status, which a stream has sent when it begins
    return streams.stream(following.EventSource(page, begins, place="seq"))


@routes.add("GET", f"{_RUN}/why", guard=API, answers={200: answers.WhySchema}, refusals={404: _NO_RUN})
def explain_run(run_id: str) -> dict[str, Any]:
    """Say what a run waits for, since when, until when, and what happens then."""
    return service().run_explain.why(caller(), run_id)


@routes.add(
    "POST",
    f"{_RUN}/signals/<string:name>",
    guard=API_WRITE,
    body=schemas.SignalSchema,
    answers={200: answers.SignalRecordedSchema},
    refusals=_SIGNAL_REFUSALS,
    parameters=[MESSAGE],
)
def signal_run(payload: dict[str, Any], run_id: str, name: str) -> dict[str, Any]:
    """Send a signal to a run; the body is what comes with it.

    A signal may come before it is waited for. The first one of a name counts, and the same again changes nothing; with an
    `Idempotency-Key` that is so for each key, and several of one name are kept, in order.
    """
    return _record(payload, run_id, name)


@routes.add(
    "POST",
    f"{_RUN}/callbacks",
    guard=API_WRITE,
    body=schemas.CallbackSpecSchema,
    answers={200: answers.CallbackSchema},
    refusals={404: _NO_RUN, 410: "the run has ended"},
)
def open_callback(body: dict[str, Any], run_id: str) -> dict[str, Any]:
    """Get the address and the token with which an outside system may send one signal to this run, and nothing else."""
    made = service().runs.callback(caller(), run_id, body["signal"], valid_s=body["valid_s"])
    audit.note(data={"signal": body["signal"], "expires_at": made["expires_at"]})
    return made


@callback_routes.add(
    "POST",
    "/callbacks/runs/<run_id>/signals/<string:name>",
    guard=RUN,
    body=schemas.SignalSchema,
    answers={200: answers.SignalRecordedSchema},
    refusals=_SIGNAL_REFUSALS,
    parameters=[MESSAGE],
)
def receive_signal(payload: dict[str, Any], run_id: str, name: str) -> dict[str, Any]:
    """Send the signal that the token is for; the body is what comes with it.

    The token is a bearer token, or the password of HTTP Basic with any user name.
    """
    return _record(payload, run_id, name)


def _record(payload: dict[str, Any], run_id: str, name: str) -> dict[str, Any]:
    send: Callable[..., dict[str, Any]] = service().runs.signal
    return send(caller(), run_id, name, payload, message_id=idempotency_key() or "")
