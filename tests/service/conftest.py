"""The world of these tests."""

from tests.support.world_fixtures import make_remote_world, make_world, migrated_file, world

__all__ = ["make_remote_world", "make_world", "migrated_file", "world"]
