"""A crash at every place of a scenario, one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from taskflow.testing.kit import Kit


def crash_everywhere(scenario: Callable[[Callable[[Kit], None]], None], *, times: int = 3) -> list[str]:
    """Play ``scenario`` without a crash, then once for each place that it passed, with a worker that dies there.

    A place that is passed over and over (a step that waits) is one of death the first ``times`` times.

    The scenario makes one ``Kit`` of its own and everything outside, calls its argument with the kit before it starts a
    run, and asserts how it must end: the same, whoever dies where. The places, in order. What a scenario raises is passed
    on with the place in its message.
    """
    kits: list[Kit] = []
    scenario(kits.append)
    places = [place for kit in kits for place in kit.places]
    if not places:
        raise AssertionError("the scenario passed no place: does it hand its kit over before it starts a run?")
    passed: Counter[str] = Counter()
    for number, place in enumerate(places):
        passed[place] += 1
        if passed[place] > times:
            continue
        kits.clear()

        def arm(kit: Kit, number: int = number) -> None:
            kits.append(kit)
            kit.crash_at_number(number)

        try:
            scenario(arm)
        except Exception as error:
            raise AssertionError(f"with a crash at place {number}, {place}: {error}") from error
        if not any(kit.crashes for kit in kits):
            raise AssertionError(f"the scenario did not pass place {number}, {place}, again: is it left to chance?")
    return places
