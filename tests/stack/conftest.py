"""A data directory of its own for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskflow.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with free ports and an external Redis, so that no server is started unless a test asks for one."""
    return Settings(data_dir=str(tmp_path / "data"), port=0, flower_port=0, redis_url="redis://127.0.0.1:1/0")
