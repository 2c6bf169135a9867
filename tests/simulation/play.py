"""One seed from start to end."""

from __future__ import annotations

import gc
import itertools
import logging
import random
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

import structlog
import time_machine

from taskflow import ids
from taskflow.nodes import agent_client
from tests.simulation.chance import Chance, Fault
from tests.simulation.invariants import Broken
from tests.simulation.storage import Storage
from tests.simulation.world import Simulation

_START = 1_700_000_000.0
_storage: list[Storage] = []


@dataclass
class Played:
    """What became of a seed. ``failure`` is '' when every invariant held."""

    seed: int
    events: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    failure: str = ""
    injected: list[Fault] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)


def play(seed: int, only: frozenset[int] | None = None) -> Played:
    """Run ``seed``. ``only``: of its numbered faults, inject these alone. The same arguments give the same trace."""
    storage = _the_storage()
    storage.reset()
    chance = Chance(seed, only)
    played = Played(seed)
    with time_machine.travel(_START, tick=False) as traveller, _everything_seeded(seed):
        simulation = Simulation(seed, traveller, storage, chance)
        with mock.patch.object(agent_client, "requests", simulation.wire):
            try:
                simulation.run()
            except Broken as broken:
                played.failure = str(broken)
                if broken.__cause__ is not None:
                    played.failure += "\n" + "".join(traceback.format_exception(broken.__cause__))
            except Exception:  # of the simulation itself: a failed seed like any other
                played.failure = traceback.format_exc()
        played.events = simulation.events
        played.trace = simulation.gate.trace
        simulation.abandon()
    played.faults = dict(chance.counts)
    played.injected = chance.injected
    return played


def collect_rarely() -> None:
    """For a process that plays many seeds: what it imported stays for good, and a run leaves little. Looking through both
    for garbage as often as Python does by default is a tenth of the time."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def _the_storage() -> Storage:
    if not _storage:
        _storage.append(Storage())
    return _storage[0]


@contextmanager
def _everything_seeded(seed: int) -> Iterator[None]:
    """Ids count up, what the product draws at random comes from the seed, and nobody reads a log."""
    numbers = itertools.count(1)

    class CountedUlid:
        def __init__(self) -> None:
            self._number = next(numbers)

        def __str__(self) -> str:
            return f"{self._number:026d}"

    state, logging_before = random.getstate(), structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    random.seed(seed)
    try:
        with mock.patch.object(ids, "ULID", CountedUlid):
            yield
    finally:
        random.setstate(state)
        structlog.configure(**logging_before)
