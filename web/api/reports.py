"""What the API answers about runs, failures, who waits, the scheduled jobs, and about many tasks at once."""

from __future__ import annotations

from marshmallow import Schema

from web.api.answers import TaskSchema
from web.api.shapes import count as _count
from web.api.shapes import free as _free
from web.api.shapes import listed as _list
from web.api.shapes import nested as _nested
from web.api.shapes import number as _number
from web.api.shapes import text as _text
from web.api.shapes import time as _time


class StepSchema(Schema):
    """A run's stay in a step."""

    step = _text("its name")
    entered_at = _time("when the run came to it")
    left_at = _time("when it went on; null: it is there")
    duration_s = _number("seconds it took; null: it is there", none=True)
    error = _free("why it went on to the cleanup, if it failed: code, message")


class TaskRunSchema(Schema):
    """An execution of a task."""

    id = _text("its id")
    number = _count("1 for the first, one more for each rerun")
    steps = _list(StepSchema, "in their order; the last one of an open run is where it stands")
    result = _free("what it ended with")
    error = _free("why it failed: code, message, advice, detail")
    cancel_requested_at = _time("when its cancellation was asked for")
    cancel_requested_by = _text("who asked for it", none=True)
    cancel_reason = _text("why", none=True)
    created_at = _time("when it was made")
    finished_at = _time("when it was over, cleanup included; null: it is open")
    duration_s = _number("seconds from its making to its end; null: it is open", none=True)


class TaskRunPageSchema(Schema):
    """A page of the runs of a task, the last one first."""

    runs = _list(TaskRunSchema, "the runs")
    next_cursor = _text("cursor of the next page; null after the last", none=True)


class AttemptErrorSchema(Schema):
    """An attempt of a step that failed."""

    id = _text("its id")
    subject_kind = _text("what was run: task, node, or own (a pipeline of your own); null: it was deleted", none=True)
    subject_id = _text("its id", none=True)
    task_id = _text("the same, if it is a task", none=True)
    title = _text("the task's title, the node's name, or what the run of your own pipeline is about", none=True)
    pipeline = _text("the pipeline of the run; null: it was deleted", none=True)
    run_id = _text("of which run")
    run_number = _count("which run of its subject that was", none=True)
    step = _text("which step failed")
    attempt = _count("which attempt of that step")
    code = _text("what went wrong, in a word that does not change")
    message = _text("the cause, for people", none=True)
    advice = _text("what to do", none=True)
    retry_in_s = _number("seconds until the next attempt; null: there was none", none=True)
    at = _time("when it failed")


class ErrorPageSchema(Schema):
    """A page of attempts that failed, newest first. They are kept as long as logs are."""

    errors = _list(AttemptErrorSchema, "the attempts")
    next_cursor = _text("cursor of the next page; null after the last", none=True)


class WaitingSchema(Schema):
    """A task that waits for capacity."""

    place = _count("its place in the line, from 1")
    task_id = _text("the task")
    run_id = _text("its run that waits")
    title = _text("its title")
    priority = _count("its priority, which counts as age")
    project = _text("its project; empty: none")
    reason = _text("for what it waits, as it was when it last looked", none=True)
    resources = _free("what its node has to be")
    requested_node_id = _text("the node that it asks for", none=True)
    since = _time("since when it waits")
    waited_s = _number("seconds since then")
    until = _time("when it fails if it still waits")


class QueuePageSchema(Schema):
    """A page of who waits, in the order in which they are served."""

    waiting = _list(WaitingSchema, "who waits")
    count = _count("how many wait, those included to whom a place was given this moment")
    next_cursor = _text("cursor of the next page; null after the last", none=True)


class SweepSchema(Schema):
    """A scheduled job."""

    name = _text("its name")
    state = _text("ok, late (no success for three intervals), degraded (it fails at some things), paused or new")
    interval_s = _number("how often it runs, in seconds")
    last_started_at = _time("when it began last")
    last_success_at = _time("when it last succeeded")
    failures = _count("how often it failed since")
    last_result = _free("what it did last, in numbers")
    failing = _count("things that it fails at")


class PromiseSchema(Schema):
    """What the installation promised and failed to do so far. It goes on trying, every ten minutes at the latest."""

    id = _text("its id")
    kind = _text("rerun_task: run a task again whose run was lost with its node; limits_changed: look who fits now")
    task_id = _text("the task, if it is about one", none=True)
    attempts = _count("how often it was tried")
    code = _text("why it failed last, in a word that does not change")
    message = _text("the same for people")
    created_at = _time("since when it is promised")
    next_at = _time("when it is tried again")


class SweepListSchema(Schema):
    """All scheduled jobs."""

    sweeps = _list(SweepSchema, "the jobs")
    promises = _list(PromiseSchema, "what was promised to you and fails, the most often tried first; 20 at most")


class RefusalSchema(Schema):
    """Why something was not done."""

    code = _text("what stands in the way, in a word that does not change")
    message = _text("the same for people")
    advice = _text("what to do", none=True)
    detail = _free("facts, such as the status that stands in the way")


class OutcomeSchema(Schema):
    """How it went with one of several tasks."""

    id = _text("the id that was named")
    status = _count("the HTTP status that a request for it alone would have been answered with")
    task = _nested(TaskSchema, "the task; null: nothing was done", none=True)
    error = _nested(RefusalSchema, "why nothing was done", none=True)


class OutcomesSchema(Schema):
    """How it went, for each task that was named, in the order in which they were."""

    outcomes = _list(OutcomeSchema, "one for each task")
