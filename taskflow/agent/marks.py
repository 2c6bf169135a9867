"""The mark by which everything that runs for an agent's root is found: a variable of the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

AGENT_ROOT = "TASKFLOW_AGENT_ROOT"


def mark_children(root: Path) -> None:
    """Let what this process starts from now on carry the mark of ``root``."""
    os.environ[AGENT_ROOT] = str(root)


def marked(environ: Mapping[str, str], root: Path) -> dict[str, str]:
    """``environ`` with the mark of ``root``."""
    return {**environ, AGENT_ROOT: str(root)}
