"""What may stand in the query of an address: which page, and which of what there is."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from taskflow.service import RUN_STATUSES, STATUSES
from web.api import forms, texts

#: In a filter, which is part of an address: those have a length that servers take.
LABELS_ASKED_MAX = 5
#: The steps of a task, in their order.
STEPS = (
    "node_selection", "waiting_for_capacity", "node_provisioning", "node_agent_ready", "workspace_creation",
    "workspace_dispatch", "workspace_ready", "agent_session", "running", "cleanup",
)  # fmt: skip
#: Ends of what every database here holds in an integer column.
NUMBER_MAX = 2**31 - 1


class UsageQuerySchema(Schema):
    """Which month."""

    month = fields.String(
        load_default=None,
        allow_none=False,
        validate=validate.Regexp(r"^20[0-9]{2}-(0[1-9]|1[0-2])\Z", error="must be like 2026-11"),
        metadata={
            "description": "a calendar month in UTC, like 2026-11; default: the present one",
            "pattern": r"^20[0-9]{2}-(0[1-9]|1[0-2])$",
        },
    )


def _page_size(default: int, most: int) -> fields.Integer:
    return fields.Integer(
        load_default=default, validate=validate.Range(1, most), metadata={"description": "how many at most"}
    )


def _after() -> fields.Integer:
    return fields.Integer(
        load_default=0,
        validate=validate.Range(0, NUMBER_MAX),
        metadata={"description": "the last number that was seen; the answer's `next` goes on there"},
    )


def _named(check: Any, description: str) -> fields.String:
    """A name of a query that narrows what is listed, and that ``check`` takes."""
    return fields.String(load_default=None, allow_none=False, validate=check, metadata={"description": description})


def _part(description: str, *, most: int = 200) -> fields.String:
    """A text of a query that narrows what is listed."""
    return _named([validate.Length(1, most), texts.plain], description)


def _statuses(known: tuple[str, ...], description: str) -> fields.List[Any]:
    one = f"({'|'.join(known)})"
    form = rf"^({one}(,{one}){{0,{len(known) - 1}}})?$"
    return fields.List(
        fields.String(validate=validate.Length(max=200), metadata={"pattern": form}),
        load_default=list,
        metadata={"description": description},
    )


def words(texts: list[str]) -> tuple[str, ...]:
    """The words of a query's field that may be repeated, or hold several separated by commas."""
    return tuple(word.strip() for text in texts for word in text.split(",") if word.strip())


def _cursor(form: str) -> fields.String:
    return fields.String(
        load_default=None,
        allow_none=False,
        validate=validate.Length(1, 200),
        metadata={"description": "`next_cursor` of the page before", "pattern": form},
    )


class PageQuerySchema(Schema):
    """Which page, and how long."""

    limit = _page_size(50, 200)
    cursor = _cursor(forms.NUMBER_CURSOR)


class QueueQuerySchema(PageQuerySchema):
    """Which page of who waits."""

    cursor = _cursor(forms.POINT_CURSOR)


class TaskListQuerySchema(PageQuerySchema):
    """Which tasks, and how many. A task has to fit all that is said."""

    cursor = _cursor(forms.POINT_CURSOR)
    status = _statuses(STATUSES, "only tasks in one of these; repeated, or separated by commas")
    project = _named(texts.project, "only tasks of this project; empty: of none")
    step = _named(validate.OneOf(STEPS), "only tasks whose open run is at this step")
    node = _named(texts.identifier, "only tasks that are or were on this node")
    label = fields.List(
        fields.String(validate=[validate.Length(2, 601), texts.plain, texts.label]),
        load_default=list,
        validate=validate.Length(max=LABELS_ASKED_MAX),
        metadata={"description": "only tasks with this label, as `key:value`; repeated: with all of them"},
    )
    text = _part("only tasks with this in their title, id or repository, in capitals or not")
    created_after = fields.AwareDateTime(
        load_default=None,
        allow_none=False,
        metadata={
            "description": "only tasks that were made then or later; with its offset, as in 2026-11-26T08:00:00Z"
        },
    )
    created_before = fields.AwareDateTime(
        load_default=None, allow_none=False, metadata={"description": "only tasks that were made before"}
    )


class TaskRunListQuerySchema(PageQuerySchema):
    """Which runs of a task."""

    limit = _page_size(20, 200)


class ErrorListQuerySchema(PageQuerySchema):
    """Which failed attempts."""

    step = _part("only of this step", most=64)
    code = _part("only with this code", most=64)


class RunListQuerySchema(PageQuerySchema):
    """Which runs of your own pipelines."""

    cursor = _cursor(forms.ID)
    status = _statuses(RUN_STATUSES, "only runs in one of these; repeated, or separated by commas")
    pipeline = _named(texts.identifier, "only of this pipeline")
    subject = _part("only about this, in the words of who started it")
    finished = fields.Boolean(
        load_default=None,
        allow_none=False,
        metadata={"description": "true: only those that ended; false: only open ones"},
    )


class EventQuerySchema(Schema):
    """Which events."""

    after = _after()
    limit = _page_size(200, 1000)


class FeedQuerySchema(Schema):
    """Which events of everything."""

    after = fields.String(
        load_default=None,
        allow_none=False,
        validate=validate.Length(1, 100),
        metadata={
            "description": "the last cursor that was seen; default: from the beginning; `now`: only what comes from now on",
            "pattern": forms.FEED_CURSOR,
        },
    )
    limit = _page_size(200, 1000)


class LogQuerySchema(Schema):
    """Which chunks of the output."""

    after = _after()
    limit = _page_size(100, 200)
    run_id = _named(texts.identifier, "an earlier run; default: the last one")


class TokenListQuerySchema(PageQuerySchema):
    """Which page of the tokens."""

    cursor = _cursor(forms.ID)


class NodeListQuerySchema(PageQuerySchema):
    """Which nodes."""

    cursor = _cursor(forms.ID)
    destroyed = fields.Boolean(load_default=False, metadata={"description": "true: destroyed ones as well"})
