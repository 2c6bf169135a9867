"""Hosts for the tests of the provider of machines that are there already, and what it raised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskflow.errors import StepError
from tests.support.ssh_lab import Lab, lab


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Lab]:
    """One host; what becomes of a request can be planned."""
    made = Lab(tmp_path / "lab", 1)
    made.servers[0].plan()
    try:
        made.servers[0].start()
        yield made
    finally:
        made.close()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Lab]:
    """Two hosts."""
    with lab(tmp_path / "lab", 2) as made:
        yield made


def refused(call: Callable[[], Any], kind: type[StepError]) -> StepError:
    """What it raised, which is exactly of this kind."""
    with pytest.raises(StepError) as found:
        call()
    assert type(found.value) is kind, found.value
    return found.value
