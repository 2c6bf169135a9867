"""What the API answers. A view's result is dumped by these, so nothing leaves that is not named here."""

from __future__ import annotations

from marshmallow import Schema, fields

from web.api.shapes import count as _count
from web.api.shapes import flag as _flag
from web.api.shapes import free as _free
from web.api.shapes import listed as _list
from web.api.shapes import nested as _nested
from web.api.shapes import number as _number
from web.api.shapes import pairs as _pairs
from web.api.shapes import text as _text
from web.api.shapes import time as _time
from web.api.shapes import words as _words


class ErrorDetailSchema(Schema):
    """What went wrong. ``code`` is stable; ``message`` is for people."""

    code = fields.String(required=True, metadata={"description": "what went wrong, in a word that does not change"})
    message = fields.String(required=True, metadata={"description": "the same for people"})
    fields_ = fields.Dict(
        keys=fields.String(), data_key="fields", metadata={"description": "wrong field -> what is wrong with it"}
    )
    advice = fields.String(metadata={"description": "what to do"})
    detail = fields.Dict(metadata={"description": "facts, such as the status that stands in the way"})
    request_id = fields.String(required=True, metadata={"description": "names this request in the log"})


class ErrorBodySchema(Schema):
    """The body of every error."""

    error = fields.Nested(ErrorDetailSchema, required=True, metadata={"description": "what went wrong"})


class TaskResultSchema(Schema):
    """What the command left."""

    output_branch = _text("the branch that its work was committed to", none=True)
    commit = _text("the last commit there; null: nothing changed", none=True)
    pushed = _flag("whether the branch was pushed to the repository", none=True)
    changed_files = _words("paths that differ from where it began", none=True)
    exit_code = _count("the exit status of its command", none=True)


class TaskUsageSchema(Schema):
    """What a task used so far, all its runs together."""

    seconds = _number("that it had a place on a node")
    vcpu_seconds = _number("cores that it reserved, or those of a slot, times seconds")
    cost = _number("its slot's part of the price of its node, in the catalogue's currency")


class UnreachableSchema(Schema):
    """What is known while a task's node is not heard of. Nothing has failed by it."""

    since = _time("since when it is not heard of")
    asked_at = _time("when its agent and its provider were asked")
    agent_answers = _flag("null: it could not be asked", none=True)
    server_state = _text("as its provider says it; null: it has no such server", none=True)
    verdict_at = _time("when it is given up if it stays silent; null: not while its agent answers")


class TaskSchema(Schema):
    """A task. Its secrets are never part of it; ``has_secrets`` says that there are some."""

    id = _text("its id")
    title = _text("what it is called; its command, unless it was given a title")
    status = _text("draft, ready, queued, delegated, in_progress, completed, failed or cancelled")
    step = _text("where its open run stands", none=True)
    finished = _flag("nothing of it goes on any more, cleanup included")
    cancel_requested = _flag("its cancellation was asked for, and the runner has not made it true yet")
    run_id = _text("its open run, or the last one; null: it never ran", none=True)
    run_number = _count("which run that is; 0: it never ran")
    run_created_at = _time("when that run was asked for: how long it took counts from here; null: it never ran")
    repository = _text("what is cloned")
    branch = _text("what the work starts from; null: the default branch", none=True)
    command = _words("the program and its arguments")
    setup_command = _words("the same of what runs in the clone before it", none=True)
    env = _pairs("environment of the command")
    has_secrets = _flag("whether it was given secrets")
    push = _flag("whether its branch is pushed back to the repository")
    time_limit_s = _number("seconds its command may take")
    priority = _count("the higher, the sooner it is given a place")
    project = _text("a name of yours; empty: none")
    labels = _pairs("what it was labelled with")
    resources = _free("what its node has to be: provider, location, location_policy, vcpus, memory_mb")
    node_id = _text("the node it has or had a place on, or that a place is kept on", none=True)
    placement = _free("why this node, and why not the others")
    last_output_at = _time("when its running command last wrote something; null: nothing yet, or it does not run")
    node_loss_reruns = _count("how often it is run again by itself when its node is lost")
    node_loss_reruns_done = _count("how often it was, since a user last ran it")
    unknown_since = _time("its node is not heard of since then; what becomes of it is not known")
    unreachable = _nested(UnreachableSchema, "what is known while its node is not heard of; null: it is", none=True)
    result = _nested(TaskResultSchema, "what its command left")
    usage = _nested(TaskUsageSchema, "what it used so far")
    error = _free("why it failed: code, message, advice, detail")
    late_result = _free("what a session reported after it was taken for dead; `run_number` says of which run")
    created_at = _time("when it was submitted")
    updated_at = _time("for people; nothing is decided by it")
    started_at = _time("when its command began")
    completed_at = _time("when it ended")


class TaskSummarySchema(Schema):
    """A task as a line of a list."""

    id = _text("its id")
    title = _text("what it is called")
    status = _text("draft, ready, queued, delegated, in_progress, completed, failed or cancelled")
    project = _text("its project; empty: none")
    step = _text("where its open run stands", none=True)
    run_number = _count("its run; 0: it never ran")
    run_created_at = _time("when that run was asked for: how long it took counts from here; null: it never ran")
    node_id = _text("the node it has or had a place on", none=True)
    error = _free("why it failed")
    created_at = _time("when it was submitted")
    completed_at = _time("when it ended")


class TaskPageSchema(Schema):
    """A page of tasks, newest first."""

    tasks = _list(TaskSummarySchema, "the tasks")
    next_cursor = _text("cursor of the next page; null after the last", none=True)


class EventSchema(Schema):
    """Something that happened. ``seq`` numbers the events of one subject without a gap."""

    subject_kind = _text("task, node, or own: what runs of a pipeline of your own are about")
    subject_id = _text("the id of that; of own runs it is made from owner, pipeline and subject")
    seq = _count("its number in the history of that")
    kind = _text("what happened")
    step = _text("the step it is about", none=True)
    actor = _text("who did it")
    run_id = _text("the run it is about", none=True)
    data = fields.Dict(metadata={"description": "what else there is to say, by the kind"})
    at = _time("when it happened")


class EventListSchema(Schema):
    """Events in order."""

    events = _list(EventSchema, "the events")
    next = _count("the next `after`")


class FeedEventSchema(EventSchema):
    """An event among those of everything."""

    cursor = _text("its place; has no meaning but as `after`")


class FeedPageSchema(Schema):
    """Events of everything, in order."""

    events = _list(FeedEventSchema, "the events")
    next = _text("the next `after`")


class StoredLogChunkSchema(Schema):
    """A piece of the output."""

    number = _count("its place in the output, from 1")
    data = _text("the bytes, in base64")


class LogPageSchema(Schema):
    """Pieces of the output, in order."""

    chunks = _list(StoredLogChunkSchema, "the pieces")
    next = _count("the next `after`")
    ended = _flag("the command is over: no more comes after the last chunk")


class WhySchema(Schema):
    """What a task waits for, since when, until when, and what happens then."""

    summary = _text("all of it in a sentence")
    status = _text("the status of the task")
    step = _text("where its open run stands", none=True)
    awaiting = _text("the signal it waits for", none=True)
    since = _time("since when it is at that step")
    waited_s = _number("seconds since then")
    until = _time("until when it may be there; null: as long as it takes")
    then = _text("what happens then", none=True)
    runner = _text("who looks after the run: alive, overdue, missing, unknown or none")
    in_a_turn = _flag("somebody works on it this moment")
    placement = _free("why this node, and why not the others")
    next_look_in_s = _number("seconds until it is looked at again", none=True)
    attempt = _count("which attempt of the step it is", none=True)
    cancel_requested = _flag("its cancellation was asked for")
    last_error = _free("the last failed attempt of this step")
    node = _free("the node it is or was on: id, status, address")
    last_output_at = _time("when its running command last wrote something; null: nothing yet, or it does not run")
    unknown_since = _time("its node is not heard of since then")
    unreachable = _nested(UnreachableSchema, "what is known while its node is not heard of; null: it is", none=True)
    error = _free("why it failed")


class NodeSchema(Schema):
    """A machine on which tasks run."""

    id = _text("its id")
    name = _text("its name")
    provider = _text("whose server it is")
    status = _text("requested, creating, awaiting_agent, active, warm, draining, destroyed or error")
    size = _text("the provider's word for what it is")
    location = _text("the provider's word for where it is")
    vcpus = _number("cores it was ordered with", none=True)
    memory_mb = _count("memory it was ordered with", none=True)
    reserved_vcpus = _number("cores that its workspaces reserved: what is left is what a further task may ask for")
    reserved_memory_mb = _count("memory that its workspaces reserved")
    slots = _count("workspaces it holds at once")
    live_workspaces = _count("workspaces on it now")
    price_per_hour = _number("what it costs, in the currency of the catalogue")
    seconds = _number("so far, from the purchase on")
    cost = _number("so far, from the purchase on, in the currency of the price")
    boot_stage = _text("how far its server's first boot was seen: booted, agent_fetched, agent_started", none=True)
    boot_stage_at = _time("when that was seen")
    kept = _flag("ordered by hand: it stays until it is drained or destroyed")
    unreachable_since = _time("its agent has not reported since then")
    address = _text("where its agent answers", none=True)
    agent_version = _text("the release of its agent", none=True)
    heartbeat_age_s = _number("seconds since its agent reported", none=True)
    load1 = _number("processes that wanted a core, as a mean of a minute", none=True)
    cores = _count("cores that its agent found", none=True)
    memory_percent = _number("memory in use", none=True)
    disk_percent = _number("disk in use", none=True)
    warm_until = _time("kept while idle until then")
    error = _free("what went wrong with it")
    created_at = _time("when it was ordered")
    destroyed_at = _time("when its server was gone")


class NodePageSchema(Schema):
    """A page of nodes, newest first."""

    nodes = _list(NodeSchema, "the nodes")
    next_cursor = _text("cursor of the next page; null after the last", none=True)


class OfferSchema(Schema):
    """A kind of server that a provider sells."""

    size = _text("the provider's word for what it is")
    location = _text("the provider's word for where it is")
    vcpus = _number("cores")
    memory_mb = _count("memory")
    slots = _count("workspaces it holds at once")
    price_per_hour = _number("in the currency of the catalogue")
    sold_out_until = _time("not asked for again before")


class ProviderCheckSchema(Schema):
    """What the last check of a provider's credential found."""

    pending = _flag("another one is asked for, and no worker has done it yet")
    asked_at = _time("when one was asked for over the API; null: never")
    at = _time("when it was found; null: not yet")
    ok = _flag("the credential works; null: not known yet", none=True)
    says = _text("what was found, for admins, as it may name hosts; null: not known, or for who is none", none=True)
    code = _text("what is wrong, in a word that does not change; null: nothing", none=True)


class ProviderSchema(Schema):
    """Where nodes come from."""

    name = _text("its name in the catalogue")
    kind = _text("local, hetzner or libcloud")
    offers = _list(OfferSchema, "what it sells")
    nodes = _count("of yours, those that are being made included")
    nodes_coming = _count("of those, how many are being made")
    nodes_max = _count("that you may have at once")
    closed = _text("why nothing is sold to you now", none=True)
    check = _nested(ProviderCheckSchema, "the last check of its credential; null: there was none", none=True)


class ProviderListSchema(Schema):
    """All providers, in the order in which they are asked."""

    providers = _list(ProviderSchema, "the providers")


class LimitsSchema(Schema):
    """What may be used at most; null: no limit. The last two are for a calendar month in UTC."""

    nodes_max = _count("nodes at once", none=True)
    running_tasks_max = _count("tasks that have a place on a node", none=True)
    node_workspaces_max = _count("workspaces on one node", none=True)
    vcpu_hours_max = _number("cores times hours", none=True)
    budget = _number("in the catalogue's currency", none=True)


class ProjectUsageSchema(Schema):
    """What the tasks of a project used. Its cost is its slots' part of the price of their nodes."""

    name = _text("empty: tasks without a project")
    tasks = _count("how many had a place")
    task_seconds = _number("that they had one, together")
    vcpu_hours = _number("cores that they reserved, or those of their slots, times hours")
    cost = _number("in the currency of the catalogue")
    limits = _nested(LimitsSchema, "the limits in force now")


class NodeUsageSchema(Schema):
    """What nodes used, and of that what tasks used; the rest is idle."""

    node_seconds = _number("that nodes stood, together")
    vcpu_hours = _number("that tasks reserved, or those of their slots")
    cost = _number("what they cost")
    tasks_cost = _number("of that, what tasks used")
    idle_cost = _number("of that, what nobody used")


class ProviderUsageSchema(NodeUsageSchema):
    """What your nodes at a provider used."""

    name = _text("its name")
    nodes = _count("how many stood in that time")


class UsageSchema(NodeUsageSchema):
    """What you used in a month so far, in the catalogue's currency, and the limits in force now."""

    month = _text("the calendar month, in UTC")
    from_ = fields.String(
        data_key="from", attribute="from", metadata={"format": "date-time", "description": "where it begins"}
    )
    until = _time("up to when it is counted")
    limits = _nested(LimitsSchema, "the limits in force now")
    providers = _list(ProviderUsageSchema, "the same for each provider")
    projects = _list(ProjectUsageSchema, "what tasks used, by project")


class RunSummarySchema(Schema):
    """A run of a pipeline of your own, as a line of a list."""

    id = _text("its id")
    pipeline = _text("the name of its pipeline")
    subject = _text("what it is about, in the words of who started it", none=True)
    number = _count("it is the n-th run for its subject")
    status = _text("running, waiting (for a signal), completed, failed or cancelled")
    finished = _flag("nothing of it goes on any more, cleanup included")
    step = _text("where it stands while it is open", none=True)
    awaiting = _text("the signal it waits for", none=True)
    deadline_at = _time("when its step must be over")
    cancel_requested = _flag("somebody asked for cancellation")
    error = _free("why it failed or was cancelled")
    created_at = _time("when it was started")
    finished_at = _time("when nothing of it went on any more")


class RunSchema(RunSummarySchema):
    """A run of a pipeline of your own."""

    input = fields.Dict(metadata={"description": "what it was started with, as its pipeline's schema loaded it"})
    results = fields.Dict(metadata={"description": "what its steps left so far"})
    result = _free("what it ended with")


class RunPageSchema(Schema):
    """A page of runs, newest first."""

    runs = _list(RunSummarySchema, "the runs")
    next_cursor = _text("cursor of the next page; null after the last", none=True)


class PipelineStepSchema(Schema):
    """A step of a pipeline."""

    name = _text("its name")
    skip = _flag("its place is kept, runs go past it")
    closing = _flag("it runs to its end whatever happens: cleanup")
    guarded = _flag("it is not entered once a cancellation was asked for")


class PipelineSchema(Schema):
    """A pipeline of your own that is registered here."""

    name = _text("its name, as a run is started with")
    version = _count("the number that its code gives it")
    steps = _list(PipelineStepSchema, "its steps, in order")
    signals = _words("the signals that it waits for; empty: it takes any")
    input_schema = _free("JSON Schema of what a run is started with; null: it takes no input")


class PipelineListSchema(Schema):
    """All pipelines of your own, by name."""

    pipelines = _list(PipelineSchema, "the pipelines")


class SignalRecordedSchema(Schema):
    """The signal is stored. ``recorded`` false: it was before, with the same content."""

    recorded = _flag("stored now; false: it was before")


class CallbackSchema(Schema):
    """Where an outside system sends one signal of one run."""

    url = _text("where it is posted")
    token = _text("a bearer token, or the password of HTTP Basic; it opens nothing else")
    expires_at = _time("good until then")


class AliveSchema(Schema):
    """The process serves."""

    alive = _flag("always true")


class ReadySchema(Schema):
    """The stores answer, have the schema of this release and take writes; a worker lives, and beat works."""

    ready = _flag("always true: what is not ready is answered 503")
    checks = _pairs("each check: ok")


class RecordedSchema(Schema):
    """The report is stored. ``late``: after the verdict that it was lost; kept and offered."""

    recorded = _flag("always true")
    late = _flag("it came after the verdict that it was lost")


class NextChunkSchema(Schema):
    """The number of the chunk that is wanted next; the sender goes on there."""

    next = _count("its number, from 1")


class BootStageSchema(Schema):
    """How far the first boot of the node's server is."""

    stage = _text("booted, agent_fetched or agent_started")
