"""The pipeline ``deploy``: stage after stage, each watched for a while; one that is ill is rolled back, last one first."""

from __future__ import annotations

from typing import Protocol

from marshmallow import Schema, fields, validate

from taskflow.pipelines import (
    Advance,
    Done,
    Outcome,
    PermanentError,
    Pipeline,
    Snooze,
    Step,
    StepContext,
    TransientError,
)

WATCH_S = 180.0
LOOK_EVERY_S = 60.0


class DeployInput(Schema):
    """What to deploy, where."""

    release = fields.String(required=True, validate=validate.Length(1, 100))
    stages = fields.List(fields.String(validate=validate.Length(1, 40)), required=True, validate=validate.Length(1, 20))


class Cluster(Protocol):
    """Where things run. Each call may be repeated; ``TransientError`` when it does not answer."""

    def current(self, stage: str) -> str:
        """The release that runs there."""

    def put(self, stage: str, release: str) -> None:
        """Run this one there."""

    def healthy(self, stage: str) -> bool:
        """Whether it works."""


class Deploy:
    """The steps. ``done`` are the stages that have the new release, with what they had before."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def remember(self, ctx: StepContext) -> Outcome:
        """What runs there now, before anything is changed: what a rollback goes back to."""
        stages = ctx.input["stages"]
        return Advance("put", {"before": {stage: self._cluster.current(stage) for stage in stages}, "done": []})

    def put(self, ctx: StepContext) -> Outcome:
        """The next stage. That it may have the new release is written down before it gets it."""
        done = ctx.results["done"]
        left = [stage for stage in ctx.input["stages"] if stage not in done]
        if not left:
            return Advance("rollback")
        return Advance("watch", {"done": [*done, left[0]]})

    def watch(self, ctx: StepContext) -> Outcome:
        """Give the stage its release, look at it for a while."""
        stage = ctx.results["done"][-1]
        self._cluster.put(stage, ctx.input["release"])
        if not self._cluster.healthy(stage):
            raise PermanentError(f"{stage} is ill with {ctx.input['release']}", code="unhealthy")
        watched_s = ctx.now - ctx.run.step_entered_at
        return Advance("put") if watched_s >= WATCH_S else Snooze(min(LOOK_EVERY_S, WATCH_S - watched_s))

    def rollback(self, ctx: StepContext) -> Outcome:
        """The end of every deployment: after a failure or a cancel each stage gets back what it had."""
        if ctx.run.error is None:
            return Done({"release": ctx.input["release"]})
        for stage in reversed(ctx.results.get("done", [])):
            self._cluster.put(stage, ctx.results["before"][stage])
        return Done({"rolled_back": list(reversed(ctx.results.get("done", [])))})


class Unreachable:
    """Put a client of yours in its place."""

    def current(self, stage: str) -> str:
        """See ``Cluster``."""
        raise TransientError("there is no cluster here")

    def put(self, stage: str, release: str) -> None:
        """See ``Cluster``."""
        raise TransientError("there is no cluster here")

    def healthy(self, stage: str) -> bool:
        """See ``Cluster``."""
        raise TransientError("there is no cluster here")


def deploy(cluster: Cluster) -> Pipeline:
    """The table."""
    steps = Deploy(cluster)
    return Pipeline(
        name="deploy",
        version=1,
        steps=(
            Step("remember", steps.remember),
            Step("put", steps.put, guarded=True),
            Step("watch", steps.watch, limit_s=2 * WATCH_S),
            Step("rollback", steps.rollback, max_attempts=0, limit_s=86_400.0),
        ),
        closing=frozenset({"rollback"}),
        input_schema=DeployInput,
    )


#: Registered as ``TASKFLOW_PIPELINES=examples.deploy.pipeline:DEPLOY``.
DEPLOY = deploy(Unreachable())
