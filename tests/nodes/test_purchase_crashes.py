"""A purchase whose worker dies at any line of it: one server for its node, with the real client libraries over HTTP."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from taskflow.nodes import machine
from taskflow.nodes.providers import cloud as libcloud_file
from taskflow.nodes.providers import hetzner as hetzner_file
from tests.support.cloud_world import MAKERS, CloudWorld, cloud_world
from tests.support.virtual import Crash
from tests.support.world_fixtures import MakeWorld

_FILES = {machine.__file__, hetzner_file.__file__, libcloud_file.__file__}
#: In every run of the tests the worker dies at each so manieth line.
_STRIDE = 9
every_line = pytest.mark.crashpoints  # minutes of real HTTP: make crashpoints


class LineCrash:
    """Kills the worker at the n-th line that runs inside ``create_server``, once."""

    def __init__(self, line: int) -> None:
        self.left = line
        self.where: str | None = None
        self._depth = 0

    def __enter__(self) -> LineCrash:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, _: Any) -> Any:
        begins = frame.f_code is machine.NodeMachine.create_server.__code__
        if begins:
            self._depth += 1
        return self._line if begins or (self._depth and frame.f_code.co_filename in _FILES) else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "return" and frame.f_code is machine.NodeMachine.create_server.__code__:
            self._depth -= 1
        if event == "line" and self.where is None:
            self.left -= 1
            if self.left == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise Crash(self.where)
        return self._line


@pytest.fixture(params=MAKERS)
def place(request: pytest.FixtureRequest, make_world: MakeWorld, tmp_path: Path) -> Iterator[CloudWorld]:
    """A world that buys from a cloud."""
    with cloud_world(request.param, make_world, tmp_path) as made:
        yield made


def _buy(place: CloudWorld, crash: LineCrash) -> None:
    """One task, whose node's worker dies at a line of the purchase."""
    world, task = place.world, place.submit()
    with crash:
        world.run_until(lambda: crash.where or world.task(task["id"])["finished"], "it dies or it is done")
    done = world.finish(task)
    assert done["status"] == "completed", (crash.where, done["error"])
    world.dissolve()


def _crash_at_lines(place: CloudWorld, first: int, stride: int) -> int:
    """Let a worker die at one line after the other, each in a purchase of its own; how many died."""
    ledger, died = place.cloud.ledger, 0
    while True:
        crash = LineCrash(first + died * stride)
        _buy(place, crash)
        assert ledger.creates == died + 1, crash.where
        assert ledger.bought_twice() == []
        assert ledger.alive() == [], crash.where
        if crash.where is None:
            return died
        died += 1


@pytest.mark.parametrize("place", ["digitalocean"], indirect=True)  # it sells a name twice
def test_a_worker_killed_at_some_lines_of_a_purchase_leaves_one_server_for_its_node(place: CloudWorld) -> None:
    """A part of what follows: counted at the cloud, where each name was sold once."""
    assert _crash_at_lines(place, 1, _STRIDE) >= 3


@every_line
@pytest.mark.timeout(900)
def test_a_worker_killed_at_any_line_of_a_purchase_leaves_one_server_for_its_node(place: CloudWorld) -> None:
    """Counted at the cloud: as many servers as nodes, each name sold once, all of them given back."""
    assert _crash_at_lines(place, 1, 1) > 25  # it died at many places


@every_line
@pytest.mark.timeout(900)
def test_the_same_holds_where_the_answer_is_lost_and_the_listing_lags(place: CloudWorld) -> None:
    """The worker dies while it looks for what it may have bought."""
    ledger, lines = place.cloud.ledger, 0
    while True:
        lines += 3
        place.cloud.faults.lose_answers, place.cloud.faults.lag_s = 1, 20.0
        crash = LineCrash(lines)
        _buy(place, crash)
        place.world.run_for(60.0)
        assert ledger.bought_twice() == [], crash.where
        assert ledger.alive() == [], crash.where
        if crash.where is None:
            break
