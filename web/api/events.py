"""What happened, to one task, to one node, or to everything of an owner; read in pages, or followed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import Response

from taskflow.errors import UsageError
from web import streams
from web.api import answers, following, queries
from web.api.routes import Routes
from web.auth import API, caller
from web.door import service
from web.errors import InvalidRequest

routes = Routes("events", "What happened, and what happens: in pages, or as a stream")

_FULL = "no room for a further stream; see `Retry-After`"
_STREAMED = "each event: `id` is its `seq`, `event` its kind, `data` the event as JSON"
_EVENT = answers.EventSchema()
_FEED_EVENT = answers.FeedEventSchema()


@routes.add(
    "GET",
    "/api/events",
    guard=API,
    query=queries.FeedQuerySchema,
    answers={200: answers.FeedPageSchema},
    refusals={400: "not a cursor of ours", 503: _FULL},
    streamed="each event of yours: `id` is its cursor, `event` its kind, `data` the event as JSON",
    parameters=[following.PARAMETER],
)
def list_feed(query: dict[str, Any]) -> dict[str, Any] | Response:
    """List or follow what happens to everything of yours, in one order.

    Going on at the last `cursor` (or `next`) skips and repeats nothing, whatever is written meanwhile. The events
    of one task, node or subject of runs are in the order of their `seq`.
    """
    served, who = service(), caller()
    if not streams.wanted():
        events, after = served.events.feed(who, after=query["after"], limit=query["limit"])
        return {"events": events, "next": after}

    said = following.last_event_id()
    try:
        begins = served.events.place(said or query["after"])
    except UsageError as error:
        if said is None:
            raise
        raise InvalidRequest(error.message, fields={following.LAST_EVENT_ID: "is not one of ours"}) from None

    def page(after: str) -> tuple[Sequence[Mapping[str, Any]], str]:
        events, next_after = served.events.feed(who, after=after, limit=following.EVENTS_AT_ONCE)
        return [_FEED_EVENT.dump(event) for event in events], next_after

    return streams.stream(following.EventSource(page, begins, place="cursor"))


@routes.add(
    "GET",
    "/api/tasks/<task_id>/events",
    guard=API,
    query=queries.EventQuerySchema,
    answers={200: answers.EventListSchema},
    refusals={404: "no such task, or not yours", 503: _FULL},
    streamed=_STREAMED,
    parameters=[following.PARAMETER],
)
def list_events(query: dict[str, Any], task_id: str) -> dict[str, Any] | Response:
    """List or follow what happened to a task, in order."""
    return _history(service().events.of_task, task_id, query)


@routes.add(
    "GET",
    "/api/nodes/<node_id>/events",
    guard=API,
    query=queries.EventQuerySchema,
    answers={200: answers.EventListSchema},
    refusals={404: "no such node, or not yours", 503: _FULL},
    streamed=_STREAMED,
    parameters=[following.PARAMETER],
)
def list_node_events(query: dict[str, Any], node_id: str) -> dict[str, Any] | Response:
    """List or follow what happened to a node, in order."""
    return _history(service().events.of_node, node_id, query)


def _history(
    read: Callable[..., Sequence[dict[str, Any]]], subject_id: str, query: Mapping[str, Any]
) -> dict[str, Any] | Response:
    who = caller()
    if not streams.wanted():
        events = read(who, subject_id, after=query["after"], limit=query["limit"])
        return {"events": events, "next": events[-1]["seq"] if events else query["after"]}

    def page(after: int, limit: int = following.EVENTS_AT_ONCE) -> tuple[Sequence[Mapping[str, Any]], int]:
        found = [_EVENT.dump(event) for event in read(who, subject_id, after=after, limit=limit)]
        return found, found[-1]["seq"] if found else after

    begins = following.number_after(query["after"])
    page(begins, 1)  # what does not exist is said with a status, which a stream has sent when it begins
    return streams.stream(following.EventSource(page, begins, place="seq"))
