"""The order, with its timeout, its callback, and a crash at every place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from examples.order.pipeline import PAY_WITHIN_S, order
from taskflow.errors import Conflict, Forbidden, InvalidInput, Unauthorized
from taskflow.pipelines import Callback, TransientError
from taskflow.testing import Crash, Kit, crash_everywhere

GIVEN = {"item": "lamp", "amount": 4900, "address": "Main Street 1"}


@dataclass
class FakeShop:
    """Remembers what really happened: a repeated key changes nothing."""

    done: dict[str, str] = field(default_factory=dict)
    effects: Counter[str] = field(default_factory=Counter)
    callback: Callback | None = None
    #: Called before a parcel is sent.
    at_the_door: Callable[[], None] = lambda: None

    def reserve(self, key: str, item: str, quantity: int) -> str:
        return self._once("reserve", key)

    def release(self, key: str, reserved_by: str) -> None:
        if reserved_by in self.done:
            self._once("release", key)

    def ask_payment(self, key: str, amount: int, callback_url: str, callback_token: str) -> None:
        self._once("ask", key)
        self.callback = Callback(callback_url, callback_token, 0.0)

    def refund(self, key: str, payment: str) -> None:
        self._once("refund", key)

    def ship(self, key: str, reservation: str, address: str) -> str:
        self.at_the_door()
        return self._once("ship", key)

    def parcel(self, shipped_by: str) -> str | None:
        return self.done.get(shipped_by)

    def _once(self, effect: str, key: str) -> str:
        if key not in self.done:
            self.effects[effect] += 1
            self.done[key] = f"{effect}-1"
        return self.done[key]

    @property
    def given(self) -> Callback:
        """What the payment provider was given."""
        assert self.callback is not None
        return self.callback


@pytest.fixture
def shop() -> FakeShop:
    """What lies outside."""
    return FakeShop()


@pytest.fixture
def kit(shop: FakeShop) -> Iterator[Kit]:
    """An installation that knows the pipeline."""
    with Kit(lambda tools: order(tools, shop)) as made:
        yield made


def test_an_order_that_is_paid_is_shipped(kit: Kit, shop: FakeShop) -> None:
    """The provider's callback, minutes later, lets it go on."""
    run = kit.start("order", GIVEN, subject="order 7")
    assert (run.status, run.step, run.awaiting) == ("waiting", "await_payment", "payment")

    kit.advance(600)
    assert kit.post(shop.given, {"status": "paid", "id": "pay-1"})

    assert run.status == "completed"
    assert run.result == {"parcel": "ship-1"}
    assert run.steps == ["reserve", "ask_payment", "await_payment", "ship", "settle"]
    assert shop.effects == {"reserve": 1, "ask": 1, "ship": 1}


def test_an_order_that_is_not_paid_in_time_gives_its_goods_back(kit: Kit, shop: FakeShop) -> None:
    """And says what it waited for."""
    run = kit.start("order", GIVEN)
    kit.advance(PAY_WITHIN_S - 1)
    assert run.status == "waiting"
    kit.advance(2)
    assert run.status == "failed"
    assert run.error is not None
    assert (run.error["code"], run.error["step"]) == ("step_timeout", "await_payment")
    assert shop.effects == {"reserve": 1, "ask": 1, "release": 1}


def test_a_declined_payment_fails_and_a_repeated_callback_changes_nothing(kit: Kit, shop: FakeShop) -> None:
    """The provider may send the same message as often as it likes, and no other one."""
    run = kit.start("order", GIVEN)
    assert kit.post(shop.given, {"status": "declined"})
    assert not kit.post(shop.given, {"status": "declined"})
    with pytest.raises(Conflict):
        kit.post(shop.given, {"status": "paid", "id": "pay-1"})
    assert run.status == "failed"
    assert run.error is not None and run.error["code"] == "payment_declined"
    assert shop.effects["release"] == 1


def test_a_callback_opens_its_own_signal_of_its_own_run_while_it_is_good(kit: Kit, shop: FakeShop) -> None:
    """Another run, another signal, another time: no."""
    first = kit.start("order", GIVEN)
    token = shop.given.token
    second = kit.start("order", GIVEN)
    with pytest.raises(Unauthorized):
        kit.post(Callback(f"/callbacks/runs/{second.id}/signals/payment", token, 0.0), {"status": "paid"})
    with pytest.raises(Forbidden):
        kit.post(Callback(f"/callbacks/runs/{first.id}/signals/other", token, 0.0), {"status": "paid"})
    kit.advance(PAY_WITHIN_S + 1)
    with pytest.raises(Unauthorized, match="expired"):
        kit.post(shop.given, {"status": "paid"})


def test_a_cancelled_order_that_was_paid_is_refunded(kit: Kit, shop: FakeShop) -> None:
    """The money came, the parcel did not leave: a carrier that is away is tried again until somebody cancels."""

    def away() -> None:
        raise TransientError("the carrier does not answer")

    shop.at_the_door = away
    run = kit.start("order", GIVEN)
    kit.post(shop.given, {"status": "paid", "id": "pay-1"})
    assert run.step == "ship"
    assert "is tried again: the carrier does not answer" in run.why

    run.cancel("changed my mind")

    assert run.status == "cancelled"
    assert run.error is not None and run.error["message"] == "changed my mind"
    assert shop.effects == {"reserve": 1, "ask": 1, "refund": 1, "release": 1}


@pytest.mark.parametrize(
    ("place", "effects"),
    [
        ("performed:reserve", {"reserve": 1, "release": 1}),
        ("performed:ship", {"reserve": 1, "ask": 1, "ship": 1}),
    ],
)
def test_what_a_dead_worker_did_is_known_when_the_order_is_cancelled_next(
    kit: Kit, shop: FakeShop, place: str, effects: dict[str, int]
) -> None:
    """Its decision was never stored: goods that it put aside are given back, what it sent is not refunded."""
    kit.crash_at(place)
    run = kit.start("order", GIVEN)
    if not kit.crashes:
        kit.post(shop.given, {"status": "paid", "id": "pay-1"})
    assert kit.crashes == [place]
    run.cancel()
    run.finish()
    assert (run.status, shop.effects) == ("cancelled", effects)


def test_wrong_input_is_refused_naming_the_field(kit: Kit) -> None:
    """And no run is made."""
    with pytest.raises(InvalidInput) as refused:
        kit.start("order", {"item": "lamp", "amount": "much"})
    assert set(refused.value.fields) == {"input.amount", "input.address"}
    assert kit.service.runs.list(kit.caller)[0] == []


def test_a_worker_that_dies_at_the_door_sends_one_parcel(kit: Kit, shop: FakeShop) -> None:
    """The next worker asks again with the same key."""
    deaths = iter([Crash("at the door")])

    def die_once() -> None:
        for death in deaths:
            raise death

    shop.at_the_door = die_once
    run = kit.start("order", GIVEN)
    kit.post(shop.given, {"status": "paid", "id": "pay-1"})
    assert kit.crashes == ["at the door"]
    assert run.finish().status == "completed"
    assert shop.effects["ship"] == 1


def test_whoever_dies_wherever_a_paid_order_is_shipped_once() -> None:
    """A crash at each place that an order passes."""

    def scenario(arm: Callable[[Kit], None]) -> None:
        shop = FakeShop()
        with Kit(lambda tools: order(tools, shop)) as kit:
            arm(kit)
            run = kit.start("order", GIVEN)
            kit.advance_until(lambda: shop.callback is not None, "the provider is asked")
            kit.post(shop.given, {"status": "paid", "id": "pay-1"})
            run.finish()
            assert run.status == "completed", run.error
            assert shop.effects == {"reserve": 1, "ask": 1, "ship": 1}

    places = crash_everywhere(scenario)
    assert {"perform:ship", "performed:ship", "applied:ship"} <= set(places)


def test_an_emptied_redis_costs_time_and_nothing_else(kit: Kit, shop: FakeShop) -> None:
    """The run is rebuilt from SQL; the callback that came meanwhile counts."""
    run = kit.start("order", GIVEN)
    kit.lose_redis()
    kit.post(shop.given, {"status": "paid", "id": "pay-1"})
    assert run.finish(limit_s=60).status == "completed"
    assert shop.effects == {"reserve": 1, "ask": 1, "ship": 1}
