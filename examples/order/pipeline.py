"""The pipeline ``order``."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from examples.order.shop import Shop, from_environment
from taskflow.pipelines import (
    Advance,
    AwaitSignal,
    Done,
    Outcome,
    PermanentError,
    Pipeline,
    Step,
    StepContext,
    Tools,
)

PAY_WITHIN_S = 15 * 60.0


class OrderInput(Schema):
    """What an order needs."""

    item = fields.String(required=True, validate=validate.Length(1, 100))
    quantity = fields.Integer(load_default=1, strict=True, validate=validate.Range(1, 1000))
    amount = fields.Integer(required=True, strict=True, validate=validate.Range(min=1), metadata={"unit": "cents"})
    address = fields.String(required=True, validate=validate.Length(1, 500))


class Order:
    """The steps. Each is a function of the run and may be performed again: what it asks for carries a key."""

    def __init__(self, tools: Tools, shop: Shop) -> None:
        self._tools = tools
        self._shop = shop

    def reserve(self, ctx: StepContext) -> Outcome:
        """Put the goods aside."""
        reservation = self._shop.reserve(ctx.idempotency_key(), ctx.input["item"], ctx.input["quantity"])
        return Advance(ctx.next_step, {"reservation": reservation})

    def ask_payment(self, ctx: StepContext) -> Outcome:
        """Ask for the money, and tell the provider where to say that it came."""
        callback = self._tools.callback(ctx.run.id, "payment", valid_s=PAY_WITHIN_S)
        self._shop.ask_payment(ctx.idempotency_key(), ctx.input["amount"], callback.url, callback.token)
        return Advance(ctx.next_step)

    def await_payment(self, ctx: StepContext) -> Outcome:
        """Wait for the provider; the step's limit bounds it."""
        said = ctx.take("payment")
        if said is None:
            return AwaitSignal("payment")
        if said.payload.get("status") != "paid":
            raise PermanentError("the payment was declined", code="payment_declined")
        return Advance(ctx.next_step, {"payment": said.payload.get("id", "")})

    def ship(self, ctx: StepContext) -> Outcome:
        """Send the goods."""
        parcel = self._shop.ship(ctx.idempotency_key(), ctx.results["reservation"], ctx.input["address"])
        return Advance(ctx.next_step, {"parcel": parcel})

    def settle(self, ctx: StepContext) -> Outcome:
        """The end of every order: what was not shipped is given back, goods and money.

        Results are no proof that nothing was done: a worker may have died after its call, and somebody cancelled next. So
        the shop is asked by the keys of the calls.
        """
        parcel = ctx.results.get("parcel") or self._shop.parcel(ctx.idempotency_key(step="ship"))
        if parcel:
            return Done({"parcel": parcel})
        paid = ctx.results.get("payment") or _late_payment(ctx)
        if paid:
            self._shop.refund(ctx.idempotency_key("refund"), paid)
        self._shop.release(ctx.idempotency_key("release"), ctx.idempotency_key(step="reserve"))
        return Done({"refunded": bool(paid)})


def _late_payment(ctx: StepContext) -> Any:
    """The money may have come while the order was being given up."""
    said = ctx.take("payment")
    return None if said is None or said.payload.get("status") != "paid" else said.payload.get("id")


def order(tools: Tools, shop: Shop | None = None) -> Pipeline:
    """The table. ``settle`` is where failures and cancels lead, too."""
    steps = Order(tools, shop or from_environment())
    return Pipeline(
        name="order",
        version=1,
        steps=(
            Step("reserve", steps.reserve, guarded=True),
            Step("ask_payment", steps.ask_payment, guarded=True),
            Step("await_payment", steps.await_payment, limit_s=PAY_WITHIN_S),
            Step("ship", steps.ship, guarded=True),
            Step("settle", steps.settle, max_attempts=0, limit_s=86_400.0),
        ),
        closing=frozenset({"settle"}),
        input_schema=OrderInput,
        signals=frozenset({"payment"}),
    )
