"""The bodies that the API takes. Messages say what is wrong and never repeat a value: it may be a secret."""

from __future__ import annotations

from typing import Any

from marshmallow import INCLUDE, Schema, ValidationError, fields, validate

from taskflow.service.runs import CALLBACK_MAX_S
from web.api import texts

ENTRIES_MAX = 100
LABELS_MAX = 50
#: Tasks that one request may name.
BULK_MAX = 100
COMMAND_MAX = 1000


class Flag(fields.Boolean):
    """true or false, not one of the words that look like them."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input="it")
        return value


class Number(fields.Float):
    """A JSON number, not a text that looks like one."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        if isinstance(value, str):
            raise self.make_error("invalid", input="it")
        found: float = super()._deserialize(value, attr, data, **kwargs)
        return found


class Whole(fields.Integer):
    """A JSON number without a fraction, however it is written; not a text that looks like one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(strict=True, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        whole = isinstance(value, float) and value.is_integer()
        found: int = super()._deserialize(int(value) if whole else value, attr, data, **kwargs)
        return found


class Seconds(Number):
    """A number above 0, in seconds; ``most`` at most."""

    def __init__(self, *, most: float | None = None, **kwargs: Any) -> None:
        super().__init__(validate=validate.Range(min=0, min_inclusive=False, max=most), **kwargs)


def _argv(**kwargs: Any) -> fields.List[Any]:
    return fields.List(
        fields.String(required=True, validate=texts.argument),
        validate=[validate.Length(1, COMMAND_MAX), texts.program],
        error_messages={"invalid": 'a list of texts is needed, as ["make", "test"]'},
        metadata={"description": "the program and its arguments; no shell reads it"},
        **kwargs,
    )


def _environment(description: str, **kwargs: Any) -> fields.Dict:
    return fields.Dict(
        keys=fields.String(validate=texts.variable_name),
        values=fields.String(required=True, validate=texts.variable_value),
        load_default=dict,
        validate=validate.Length(max=ENTRIES_MAX),
        error_messages={"invalid": 'an object of texts is needed, as {{"CI": "true"}}'},
        metadata={"description": description},
        **kwargs,
    )


class ResourcesSchema(Schema):
    """What the task's node has to be. What is left out does not matter."""

    error_messages = {"type": 'an object is needed, as {"vcpus": 2}'}  # noqa: RUF012 - so marshmallow reads it

    provider = fields.String(
        validate=texts.identifier, metadata={"description": "a provider of this installation's catalogue"}
    )
    location = fields.String(
        validate=[validate.Length(1, 64), texts.plain], metadata={"description": "the provider's word for where it is"}
    )
    location_policy = fields.String(
        validate=validate.OneOf(["require", "prefer"]),
        metadata={
            "description": "require: nowhere else than at the location, as when this is left out; prefer: there before "
            "others of its kind, which are warm nodes, running ones, those that come, and what can be bought"
        },
    )
    vcpus = Number(
        validate=validate.Range(min=0, min_inclusive=False, max=4096),
        metadata={"description": "reserved on the node while the task's workspace lives"},
    )
    memory_mb = Whole(
        validate=validate.Range(1, 100_000_000),
        metadata={"description": "reserved on the node while the task's workspace lives"},
    )


class TaskSpecSchema(Schema):
    """What a task is to do, and where."""

    repository = fields.String(
        required=True,
        validate=texts.repository,
        metadata={"description": "absolute path, file://, https://, http://, ssh:// or user@host:path"},
    )
    branch = fields.String(
        load_default=None,
        allow_none=True,
        validate=texts.branch,
        metadata={"description": "what the work starts from; null: the repository's default branch"},
    )
    command = _argv(required=True)
    setup_command = _argv(load_default=None, allow_none=True)
    env = _environment("environment of the command; stored and shown as it is")
    secrets = _environment(
        "environment of the command, encrypted at rest, masked in its output, never shown again", load_only=True
    )
    push = Flag(load_default=True, metadata={"description": "push the output branch back to the repository"})
    time_limit_s = Seconds(
        load_default=None,
        allow_none=True,
        metadata={"description": "seconds the command may take; null: as long as this installation lets it"},
    )
    title = fields.String(
        load_default=None,
        allow_none=True,
        validate=[validate.Length(max=500), texts.plain],
        metadata={"description": "what it is called; null: its command"},
    )
    labels = fields.Dict(
        keys=fields.String(validate=[validate.Length(1, 100), texts.plain]),
        values=fields.String(required=True, validate=[validate.Length(max=500), texts.plain]),
        load_default=dict,
        validate=validate.Length(max=LABELS_MAX),
        error_messages={"invalid": 'an object of texts is needed, as {{"team": "web"}}'},
        metadata={"description": "what it can be found by"},
    )
    priority = Whole(
        load_default=0,
        validate=validate.Range(-100, 100),
        metadata={"description": "the higher, the sooner it is given a place"},
    )
    project = fields.String(
        load_default="",
        validate=texts.project,
        metadata={"description": "a name of yours: usage and limits are counted by it"},
    )
    resources = fields.Nested(
        ResourcesSchema,
        load_default=None,
        allow_none=True,
        metadata={"description": "what its node has to be; null: any will do"},
    )
    node_id = fields.String(
        load_default=None,
        allow_none=True,
        validate=texts.identifier,
        metadata={"description": "the node it has to run on; null: any"},
    )
    allow_node_fallback = Flag(
        load_default=False,
        metadata={
            "description": "take another node when the one named can't be used now: full, busy, not heard of, gone"
        },
    )
    node_loss_reruns = Whole(
        load_default=0,
        validate=validate.Range(0, 5),
        metadata={
            "description": "how often it is run again by itself when its node is lost; it may have begun its work"
        },
    )
    start = Flag(load_default=True, metadata={"description": "false: only make a draft"})


class ReasonSchema(Schema):
    """Why somebody stops something; shown in the history."""

    reason = fields.String(
        load_default=None,
        allow_none=True,
        validate=[validate.Length(max=1000), texts.plain],
        metadata={"description": "shown in the history"},
    )


class DestroySchema(ReasonSchema):
    """How a node is let go."""

    force = Flag(
        load_default=False,
        metadata={"description": "wait for nothing: the tasks on it fail at once, with the code node_destroyed"},
    )


class NodeSpecSchema(ResourcesSchema):
    """Which node to order. The first offer of the provider that fits is taken."""

    class Meta:
        """Who orders a node names the place that it has to be at."""

        exclude = ("location_policy",)

    provider = fields.String(
        required=True,
        validate=texts.identifier,
        metadata={"description": "a provider of this installation's catalogue"},
    )
    size = fields.String(
        validate=[validate.Length(1, 64), texts.plain], metadata={"description": "the provider's word for what it is"}
    )
    vcpus = Number(
        validate=validate.Range(min=0, min_inclusive=False, max=4096), metadata={"description": "cores it has at least"}
    )
    memory_mb = Whole(validate=validate.Range(1, 100_000_000), metadata={"description": "memory it has at least"})


class ProviderCheckSpecSchema(Schema):
    """Which provider to check."""

    provider = fields.String(
        load_default=None,
        allow_none=True,
        validate=texts.identifier,
        metadata={"description": "a provider of this installation's catalogue; null: each of them"},
    )


class NothingSchema(Schema):
    """An empty body, or an empty object."""


class TaskIdsSchema(Schema):
    """Which tasks."""

    ids = fields.List(
        fields.String(required=True, validate=texts.identifier),
        required=True,
        validate=validate.Length(1, BULK_MAX),
        error_messages={"invalid": "a list of ids is needed"},
        metadata={"description": "one that is named twice is treated once"},
    )


class CancelManySchema(TaskIdsSchema, ReasonSchema):
    """Which tasks to cancel, and why."""


class RunSpecSchema(Schema):
    """Which pipeline to run, and with what."""

    pipeline = fields.String(
        required=True, validate=texts.identifier, metadata={"description": "the name of a registered pipeline"}
    )
    subject = fields.String(
        load_default=None,
        allow_none=True,
        validate=[validate.Length(1, 200), texts.plain],
        metadata={
            "description": "what the run is about, in your words; while a run of the same pipeline is open for it, no other"
            " is started"
        },
    )
    input = fields.Dict(
        keys=fields.String(),
        load_default=dict,
        metadata={
            "description": "what the pipeline's schema asks for; kept and shown as it is, so no place for secrets"
        },
    )


class SignalSchema(Schema):
    """What comes with a signal: any object."""

    class Meta:
        """Whatever the sender names its fields."""

        unknown = INCLUDE


class CallbackSpecSchema(Schema):
    """Which signal somebody else may send, and for how long."""

    signal = fields.String(required=True, validate=texts.identifier, metadata={"description": "the name of the signal"})
    valid_s = Seconds(
        most=CALLBACK_MAX_S,
        load_default=None,
        allow_none=True,
        metadata={"description": "seconds from now; default: a day"},
    )


def check_idempotency_key(key: str | None) -> str | None:
    """``key`` when it can be one, or None. Raises ``ValidationError``."""
    if key is not None and not texts.KEY.fullmatch(key):
        raise ValidationError({texts.IDEMPOTENCY_HEADER: ["1 to 200 visible ASCII characters"]})
    return key
