"""A small fleet in every run of the tests; the large ones are a command of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fleet.run import run_fleet

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.mark.parametrize(("provider", "chaos"), [("fake-hetzner", False), ("fake-digitalocean", True)])
def test_servers_are_bought_once_filled_to_their_slots_and_given_back(
    tmp_path: Path, provider: str, chaos: bool
) -> None:
    """Real processes and real HTTP on both sides; what is counted are the cloud's own books."""
    report = run_fleet(tmp_path, tasks=40, provider=provider, seed=1, chaos=chaos)
    bought = report.pop("servers_created")
    assert bought == report.pop("servers_destroyed") > 1
    assert report == {
        "tasks": 40, "completed": 40, "leaked": 0, "double_created": 0, "over_capacity": 0, "faults": 0,
    }  # fmt: skip
