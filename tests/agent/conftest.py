"""Fixtures of the agent's tests: a control plane and an agent, both real processes or servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.control_plane import FakeControlPlane
from tests.agent.rig import AgentRig
from tests.support.passage import open_directory


@pytest.fixture
def control_plane() -> Iterator[FakeControlPlane]:
    """A control plane that takes everything."""
    plane = FakeControlPlane()
    yield plane
    plane.down()


@pytest.fixture
def isolate() -> bool:
    """Whether the node isolates its workspaces. Modules whose guarantees hold either way make a parameter of it."""
    return False


@pytest.fixture
def tmp_path(tmp_path: Path, isolate: bool) -> Iterator[Path]:
    """pytest's own, except where other users have to reach what is in it."""
    if not isolate:
        yield tmp_path
        return
    with open_directory() as path:
        yield path


@pytest.fixture
def rig(tmp_path: Path, control_plane: FakeControlPlane, isolate: bool) -> Iterator[AgentRig]:
    """An agent's directory; the agent is not started yet."""
    made = AgentRig(tmp_path, control_plane, isolate=isolate)
    yield made
    made.close()


@pytest.fixture
def agent(rig: AgentRig) -> AgentRig:
    """A running agent."""
    return rig.start()
