"""Fixtures of the end-to-end tests: one stack for each module, a repository for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, make_repository


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack on the embedded default; it leaves no process behind."""
    made = Stack(tmp_path_factory.mktemp("stack") / "data").start()
    yield made
    made.stop()
    assert made.left_over() == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A real git repository."""
    return make_repository(tmp_path / "repository")
