"""The pipeline ``reminder``: a mail, some time for an answer, and a second mail when there was none."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from taskflow.pipelines import Advance, AwaitSignal, Done, Outcome, Pipeline, Step, StepContext


class ReminderInput(Schema):
    """Whom to remind, of what."""

    to = fields.Email(required=True)
    text = fields.String(required=True, validate=validate.Length(1, 1000))
    wait_s = fields.Float(load_default=86_400.0, validate=validate.Range(min=0, min_inclusive=False))


def ask(ctx: StepContext) -> Outcome:
    """Send the first mail, by the application's own task."""
    _mail(ctx, ctx.input["text"])
    return Advance(ctx.next_step)


def await_answer(ctx: StepContext) -> Outcome:
    """Wait for an answer as long as the input says."""
    if ctx.take("answered") is not None:
        return Done({"answered": True})
    return AwaitSignal("answered")


def no_answer(ctx: StepContext) -> Outcome:
    """The time is over: that is no failure here. An answer may have come while no worker was there to look."""
    if ctx.take("answered") is not None:
        return Done({"answered": True})
    return Advance(ctx.next_step)


def remind(ctx: StepContext) -> Outcome:
    """Send the second mail."""
    _mail(ctx, f"Again: {ctx.input['text']}")
    return Done({"answered": False})


def _mail(ctx: StepContext, text: str) -> None:
    from examples.existing_app.app import send_mail  # the application knows its pipelines, not the other way round

    send_mail.delay(ctx.idempotency_key(), ctx.input["to"], text)


REMINDER = Pipeline(
    name="reminder",
    version=1,
    steps=(
        Step("ask", ask, guarded=True),
        Step(
            "await_answer", await_answer, limit_s=lambda run: float(run.results["$input"]["wait_s"]), expired=no_answer
        ),
        Step("remind", remind, guarded=True),
    ),
    input_schema=ReminderInput,
    signals=frozenset({"answered"}),
)
