"""The world of these tests."""

from tests.support.provider_subjects import subject
from tests.support.ssh_lab_fixtures import one, two
from tests.support.world_fixtures import make_remote_world, make_world, migrated_file, remote_world, world

__all__ = ["make_remote_world", "make_world", "migrated_file", "one", "remote_world", "subject", "two", "world"]
