"""What the API answers. A view's result is dumped by these, so nothing leaves that is not named here."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields


def _time(description: str = "") -> fields.String:
    said: dict[str, Any] = {"format": "date-time"}
    return fields.String(allow_none=True, metadata=said | ({"description": description} if description else {}))


def _text(description: str = "", *, none: bool = False) -> fields.String:
    return fields.String(allow_none=none, metadata={"description": description} if description else {})


def _free(description: str) -> fields.Dict:
    return fields.Dict(allow_none=True, metadata={"description": description})


class ErrorDetailSchema(Schema):
    """What went wrong. ``code`` is stable; ``message`` is for people."""

    code = fields.String(required=True)
    message = fields.String(required=True)
    fields_ = fields.Dict(
        keys=fields.String(), data_key="fields", metadata={"description": "wrong field -> what is wrong with it"}
    )
    advice = fields.String(metadata={"description": "what to do"})
    detail = fields.Dict(metadata={"description": "facts, such as the status that stands in the way"})
    request_id = fields.String(required=True, metadata={"description": "names this request in the log"})


class ErrorBodySchema(Schema):
    """The body of every error."""

    error = fields.Nested(ErrorDetailSchema, required=True)


class TaskResultSchema(Schema):
    """What the command left."""

    output_branch = _text(none=True)
    commit = _text("null: nothing changed", none=True)
    pushed = fields.Boolean(allow_none=True)
    changed_files = fields.List(fields.String(), allow_none=True)
    exit_code = fields.Integer(allow_none=True)


class TaskUsageSchema(Schema):
    """What a task used so far, all its runs together."""

    seconds = fields.Float(metadata={"description": "that it had a place on a node"})
    vcpu_seconds = fields.Float(metadata={"description": "cores that it reserved, or those of a slot, times seconds"})
    cost = fields.Float(
        metadata={"description": "its slot's part of the price of its node, in the catalogue's currency"}
    )


class UnreachableSchema(Schema):
    """What is known while a task's node is not heard of. Nothing has failed by it."""

    since = _time()
    asked_at = _time("when its agent and its provider were asked")
    agent_answers = fields.Boolean(allow_none=True, metadata={"description": "null: it could not be asked"})
    server_state = _text("as its provider says it; null: it has no such server", none=True)
    verdict_at = _time("when it is given up if it stays silent; null: not while its agent answers")


class TaskSchema(Schema):
    """A task. Its secrets are never part of it; ``has_secrets`` says that there are some."""

    id = _text()
    title = _text()
    status = _text("draft, ready, queued, delegated, in_progress, completed, failed or cancelled")
    step = _text("where its open run stands", none=True)
    finished = fields.Boolean(metadata={"description": "nothing of it goes on any more, cleanup included"})
    cancel_requested = fields.Boolean()
    run_id = _text(none=True)
    run_number = fields.Integer()
    repository = _text()
    branch = _text(none=True)
    command = fields.List(fields.String())
    setup_command = fields.List(fields.String(), allow_none=True)
    env = fields.Dict(keys=fields.String(), values=fields.String())
    has_secrets = fields.Boolean()
    push = fields.Boolean()
    time_limit_s = fields.Float()
    priority = fields.Integer()
    project = _text("a name of yours; empty: none")
    labels = fields.Dict(keys=fields.String(), values=fields.String())
    resources = _free("what its node has to be: provider, location, vcpus, memory_mb")
    node_id = _text(none=True)
    placement = _free("why this node, and why not the others")
    node_loss_reruns = fields.Integer(
        metadata={"description": "how often it is run again by itself when its node is lost"}
    )
    node_loss_reruns_done = fields.Integer(metadata={"description": "how often it was, since a user last ran it"})
    unknown_since = _time("its node is not heard of since then; what becomes of it is not known")
    unreachable = fields.Nested(UnreachableSchema, allow_none=True)
    result = fields.Nested(TaskResultSchema)
    usage = fields.Nested(TaskUsageSchema)
    error = _free("why it failed: code, message, advice, detail")
    late_result = _free("what a session reported after it was taken for dead; `run_number` says of which run")
    created_at = _time()
    updated_at = _time("for people; nothing is decided by it")
    started_at = _time()
    completed_at = _time()


class TaskSummarySchema(Schema):
    """A task as a line of a list."""

    id = _text()
    title = _text()
    status = _text()
    project = _text()
    step = _text(none=True)
    run_number = fields.Integer()
    node_id = _text(none=True)
    error = _free("why it failed")
    created_at = _time()
    completed_at = _time()


class TaskPageSchema(Schema):
    """A page of tasks, newest first."""

    tasks = fields.List(fields.Nested(TaskSummarySchema))
    next_cursor = _text("cursor of the next page; null after the last", none=True)


class EventSchema(Schema):
    """Something that happened. ``seq`` numbers the events of one subject without a gap."""

    subject_kind = _text("task or node")
    subject_id = _text()
    seq = fields.Integer()
    kind = _text()
    step = _text(none=True)
    actor = _text()
    run_id = _text(none=True)
    data = fields.Dict()
    at = _time()


class EventListSchema(Schema):
    """Events in order."""

    events = fields.List(fields.Nested(EventSchema))
    next = fields.Integer(metadata={"description": "the next `after`"})


class FeedEventSchema(EventSchema):
    """An event among those of everything."""

    cursor = _text("its place; has no meaning but as `after`")


class FeedPageSchema(Schema):
    """Events of everything, in order."""

    events = fields.List(fields.Nested(FeedEventSchema))
    next = _text("the next `after`")


class StoredLogChunkSchema(Schema):
    """A piece of the output."""

    number = fields.Integer()
    data = _text("base64")


class LogPageSchema(Schema):
    """Pieces of the output, in order."""

    chunks = fields.List(fields.Nested(StoredLogChunkSchema))
    next = fields.Integer(metadata={"description": "the next `after`"})
    ended = fields.Boolean(metadata={"description": "the command is over: no more comes after the last chunk"})


class WhySchema(Schema):
    """What a task waits for, since when, until when, and what happens then."""

    summary = _text("a sentence")
    status = _text()
    step = _text(none=True)
    awaiting = _text("the signal it waits for", none=True)
    since = _time()
    waited_s = fields.Float()
    until = _time()
    then = _text(none=True)
    runner = _text("alive, overdue, missing, unknown or none")
    in_a_turn = fields.Boolean()
    placement = _free("why this node, and why not the others")
    next_look_in_s = fields.Float(allow_none=True)
    attempt = fields.Integer(allow_none=True)
    cancel_requested = fields.Boolean()
    last_error = _free("the last failed attempt of this step")
    node = _free("the node it is on: id, status, address")
    unknown_since = _time("its node is not heard of since then")
    unreachable = fields.Nested(UnreachableSchema, allow_none=True)
    error = _free("why it failed")


class NodeSchema(Schema):
    """A machine on which tasks run."""

    id = _text()
    name = _text()
    provider = _text()
    status = _text("requested, creating, awaiting_agent, active, warm, draining, destroyed or error")
    size = _text("the provider's word for what it is")
    location = _text("the provider's word for where it is")
    vcpus = fields.Float(allow_none=True)
    memory_mb = fields.Integer(allow_none=True)
    slots = fields.Integer()
    live_workspaces = fields.Integer()
    price_per_hour = fields.Float()
    seconds = fields.Float(metadata={"description": "so far, from the purchase on"})
    cost = fields.Float(metadata={"description": "so far, from the purchase on, in the currency of the price"})
    boot_stage = _text("how far its server's first boot was seen: booted, agent_fetched, agent_started", none=True)
    boot_stage_at = _time()
    kept = fields.Boolean(metadata={"description": "ordered by hand: it stays until it is drained or destroyed"})
    unreachable_since = _time("its agent has not reported since then")
    address = _text(none=True)
    agent_version = _text(none=True)
    heartbeat_age_s = fields.Float(allow_none=True)
    load1 = fields.Float(allow_none=True)
    cores = fields.Integer(allow_none=True)
    memory_percent = fields.Float(allow_none=True)
    disk_percent = fields.Float(allow_none=True)
    warm_until = _time("kept while idle until then")
    error = _free("what went wrong with it")
    created_at = _time()
    destroyed_at = _time()


class NodeListSchema(Schema):
    """Nodes, newest first."""

    nodes = fields.List(fields.Nested(NodeSchema))


class OfferSchema(Schema):
    """A kind of server that a provider sells."""

    size = _text()
    location = _text()
    vcpus = fields.Float()
    memory_mb = fields.Integer()
    slots = fields.Integer(metadata={"description": "workspaces it holds at once"})
    price_per_hour = fields.Float()
    sold_out_until = _time("not asked for again before")


class ProviderSchema(Schema):
    """Where nodes come from."""

    name = _text()
    kind = _text("local, hetzner or libcloud")
    offers = fields.List(fields.Nested(OfferSchema))
    nodes = fields.Integer(metadata={"description": "of yours, those that are being made included"})
    nodes_coming = fields.Integer()
    nodes_max = fields.Integer(metadata={"description": "that you may have at once"})
    closed = _text("why nothing is sold to you now", none=True)


class ProviderListSchema(Schema):
    """All providers, in the order in which they are asked."""

    providers = fields.List(fields.Nested(ProviderSchema))


class LimitsSchema(Schema):
    """What may be used at most; null: no limit. The last two are for a calendar month in UTC."""

    nodes_max = fields.Integer(allow_none=True)
    running_tasks_max = fields.Integer(allow_none=True, metadata={"description": "tasks that have a place on a node"})
    node_workspaces_max = fields.Integer(allow_none=True, metadata={"description": "workspaces on one node"})
    vcpu_hours_max = fields.Float(allow_none=True)
    budget = fields.Float(allow_none=True, metadata={"description": "in the catalogue's currency"})


class ProjectUsageSchema(Schema):
    """What the tasks of a project used. Its cost is its slots' part of the price of their nodes."""

    name = _text("empty: tasks without a project")
    tasks = fields.Integer()
    task_seconds = fields.Float()
    vcpu_hours = fields.Float()
    cost = fields.Float()
    limits = fields.Nested(LimitsSchema)


class NodeUsageSchema(Schema):
    """What nodes used, and of that what tasks used; the rest is idle."""

    node_seconds = fields.Float()
    vcpu_hours = fields.Float(metadata={"description": "that tasks reserved, or those of their slots"})
    cost = fields.Float()
    tasks_cost = fields.Float()
    idle_cost = fields.Float()


class ProviderUsageSchema(NodeUsageSchema):
    """What your nodes at a provider used."""

    name = _text()
    nodes = fields.Integer()


class UsageSchema(NodeUsageSchema):
    """What you used in a month so far, in the catalogue's currency, and the limits in force now."""

    month = _text()
    from_ = fields.String(data_key="from", attribute="from", metadata={"format": "date-time"})
    until = _time()
    limits = fields.Nested(LimitsSchema)
    providers = fields.List(fields.Nested(ProviderUsageSchema))
    projects = fields.List(fields.Nested(ProjectUsageSchema))


class RunSchema(Schema):
    """A run of a pipeline of your own."""

    id = _text()
    pipeline = _text()
    subject = _text("what it is about, in the words of who started it", none=True)
    number = fields.Integer(metadata={"description": "it is the n-th run for its subject"})
    status = _text("running, waiting (for a signal), completed, failed or cancelled")
    finished = fields.Boolean(metadata={"description": "nothing of it goes on any more, cleanup included"})
    step = _text("where it stands while it is open", none=True)
    awaiting = _text("the signal it waits for", none=True)
    deadline_at = _time("when its step must be over")
    cancel_requested = fields.Boolean()
    input = fields.Dict(metadata={"description": "what it was started with, as its pipeline's schema loaded it"})
    results = fields.Dict(metadata={"description": "what its steps left so far"})
    result = _free("what it ended with")
    error = _free("why it failed or was cancelled")
    created_at = _time()
    finished_at = _time()


class RunPageSchema(Schema):
    """A page of runs."""

    runs = fields.List(fields.Nested(RunSchema))
    next_cursor = _text("where the next page begins; null: there is none", none=True)


class SignalRecordedSchema(Schema):
    """The signal is stored. ``recorded`` false: it was before, with the same content."""

    recorded = fields.Boolean()


class CallbackSchema(Schema):
    """Where an outside system sends one signal of one run."""

    url = _text()
    token = _text("a bearer token, or the password of HTTP Basic; it opens nothing else")
    expires_at = _time()


class AliveSchema(Schema):
    """The process serves."""

    alive = fields.Boolean()


class ReadySchema(Schema):
    """Every store answers and has the schema of this release."""

    ready = fields.Boolean()
    checks = fields.Dict(keys=fields.String(), values=fields.String())


class RecordedSchema(Schema):
    """The report is stored. ``late``: after the verdict that it was lost; kept and offered."""

    recorded = fields.Boolean()
    late = fields.Boolean()


class NextChunkSchema(Schema):
    """The number of the chunk that is wanted next; the sender goes on there."""

    next = fields.Integer()


class BootStageSchema(Schema):
    """How far the first boot of the node's server is."""

    stage = _text()
