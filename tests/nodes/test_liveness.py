"""The verdict about a node, over its signs."""

from __future__ import annotations

import pytest

from taskflow.nodes.liveness import Liveness, node_verdict, verdict_at
from taskflow.nodes.providers.base import UNKNOWN

ALIVE, UNSURE, DEAD = Liveness.LIVE, Liveness.INCONCLUSIVE, Liveness.DEAD


@pytest.mark.parametrize(
    ("age_s", "answers", "server", "verdict"),
    [
        (1.0, None, None, ALIVE),
        (60.0, False, None, ALIVE),
        (61.0, True, None, ALIVE),
        (61.0, False, "running", UNSURE),
        (61.0, False, "starting", UNSURE),
        (61.0, None, "stopped", UNSURE),
        (None, None, None, UNSURE),
        (61.0, False, "stopped", DEAD),
        (61.0, False, "destroyed", DEAD),
        (61.0, False, None, DEAD),
        (61.0, False, UNKNOWN, UNSURE),
        (600.0, False, "running", UNSURE),
        (601.0, False, "running", DEAD),
        (601.0, False, UNKNOWN, UNSURE),
        (None, False, "running", UNSURE),
        (9999.0, True, "running", ALIVE),
    ],
)
def test_a_verdict_of_death_needs_two_signs(
    age_s: float | None, answers: bool | None, server: str | None, verdict: Liveness
) -> None:
    """Heartbeat, agent and provider; what was not asked is no sign."""
    found = node_verdict(heartbeat_age_s=age_s, stale_s=60.0, agent_answers=answers, server_state=server)
    assert (found.liveness, found.dead, found.by is not None) == (verdict, verdict is DEAD, verdict is DEAD)


@pytest.mark.parametrize(
    ("age_s", "answers", "server", "verdict", "by"),
    [
        (61.0, False, "running", UNSURE, None),
        (61.0, False, "stopped", DEAD, "server_gone"),
        (360.0, False, "running", UNSURE, None),
        (360.0, True, "running", ALIVE, None),
        (361.0, False, "running", DEAD, "silence"),
        (361.0, True, "running", DEAD, "silence"),
        (361.0, None, UNKNOWN, DEAD, "silence"),
        (None, False, "running", UNSURE, None),
    ],
)
def test_a_node_on_another_machine_is_dead_when_its_dead_man_time_is_over(
    age_s: float | None, answers: bool | None, server: str | None, verdict: Liveness, by: str | None
) -> None:
    """Its sessions have ended themselves, whatever anybody says; until then two signs are needed as anywhere."""
    found = node_verdict(heartbeat_age_s=age_s, stale_s=60.0, agent_answers=answers, server_state=server, lost_s=360.0)
    assert (found.liveness, found.by) == (verdict, by)


def test_a_cut_link_counts_once() -> None:
    """Between machines no heartbeat and no answer have one cause: however old, only the dead-man time decides."""
    found = node_verdict(
        heartbeat_age_s=900.0, stale_s=60.0, agent_answers=False, server_state="running", lost_s=1000.0
    )
    assert found.liveness is UNSURE


@pytest.mark.parametrize(
    ("lost_s", "answers", "at"),
    [(360.0, True, 1360.0), (360.0, None, 1360.0), (None, False, 1600.0), (None, True, None), (None, None, None)],
)
def test_when_the_verdict_is_made_is_known_before(lost_s: float | None, answers: bool | None, at: float | None) -> None:
    """Another machine: when its dead-man time is over for sure. This one: not while its agent answers."""
    assert verdict_at(1000.0, stale_s=60.0, lost_s=lost_s, agent_answers=answers) == at
    assert verdict_at(None, stale_s=60.0, lost_s=lost_s, agent_answers=answers) is None
