"""Directories for tests of isolated nodes, whose users have to pass to their workspaces."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from taskflow.agent.places import remove_tree


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that every user can pass. Not pytest's: each start of pytest closes those of all others."""
    path = Path(tempfile.mkdtemp(prefix="taskflow-test-", dir="/tmp"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        remove_tree(path)
