"""Fixtures of the overload tests."""

from tests.agent.conftest import agent, control_plane, rig  # noqa: F401  fixtures
from tests.support.world_fixtures import make_world, migrated_file, world  # noqa: F401  fixtures
