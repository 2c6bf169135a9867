"""The deployment: all well, one stage ill, a cancel in the middle, a cluster that is away, a crash at every place."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from examples.deploy.pipeline import WATCH_S, deploy
from taskflow.errors import Conflict
from taskflow.pipelines import TransientError
from taskflow.testing import Kit, crash_everywhere

STAGES = ["canary", "europe", "world"]
GIVEN = {"release": "v2", "stages": STAGES}


class FakeCluster:
    """Three stages that run v1."""

    def __init__(self) -> None:
        self.runs = dict.fromkeys(STAGES, "v1")
        self.ill: set[tuple[str, str]] = set()
        self.away = False

    def current(self, stage: str) -> str:
        return self.runs[stage]

    def put(self, stage: str, release: str) -> None:
        if self.away:
            raise TransientError("no answer")
        self.runs[stage] = release

    def healthy(self, stage: str) -> bool:
        return (stage, self.runs[stage]) not in self.ill


@pytest.fixture
def cluster() -> FakeCluster:
    """What is deployed to."""
    return FakeCluster()


@pytest.fixture
def kit(cluster: FakeCluster) -> Iterator[Kit]:
    """An installation that knows the pipeline."""
    with Kit(deploy(cluster)) as made:
        yield made


def test_a_healthy_release_goes_through_every_stage(kit: Kit, cluster: FakeCluster) -> None:
    """One after the other, each watched before the next."""
    run = kit.start("deploy", GIVEN)
    assert cluster.runs == {"canary": "v2", "europe": "v1", "world": "v1"}
    kit.advance(WATCH_S + 1)
    assert cluster.runs == {"canary": "v2", "europe": "v2", "world": "v1"}
    run.finish()
    assert (run.status, cluster.runs) == ("completed", dict.fromkeys(STAGES, "v2"))


def test_an_ill_stage_is_rolled_back_with_those_before_it(kit: Kit, cluster: FakeCluster) -> None:
    """The stage after it never saw the release."""
    run = kit.start("deploy", GIVEN)
    cluster.ill.add(("europe", "v2"))
    run.finish()
    assert run.error is not None and run.error["code"] == "unhealthy"
    assert run.result == {"rolled_back": ["europe", "canary"]}
    assert cluster.runs == dict.fromkeys(STAGES, "v1")


def test_a_cancel_rolls_back(kit: Kit, cluster: FakeCluster) -> None:
    """A run that was cancelled left nothing behind."""
    run = kit.start("deploy", GIVEN)
    kit.advance(WATCH_S + 1)
    run.cancel()
    assert (run.status, cluster.runs) == ("cancelled", dict.fromkeys(STAGES, "v1"))


def test_a_rollback_waits_for_a_cluster_that_is_away(kit: Kit, cluster: FakeCluster) -> None:
    """It is tried until it works, for as long as the closing step may take."""
    run = kit.start("deploy", GIVEN)
    cluster.ill.add(("canary", "v2"))
    kit.advance(1)
    cluster.away = True
    kit.advance(1800)
    assert (run.finished, run.step) == (False, "rollback")
    cluster.away = False
    run.finish()
    assert (run.status, cluster.runs) == ("failed", dict.fromkeys(STAGES, "v1"))


def test_two_deployments_of_one_service_do_not_cross(kit: Kit) -> None:
    """The subject has one open run; the next one is started when it has ended."""
    first = kit.start("deploy", GIVEN, subject="shop")
    with pytest.raises(Conflict) as refused:
        kit.start("deploy", GIVEN, subject="shop")
    assert refused.value.detail == {"run_id": first.id}
    kit.start("deploy", GIVEN, subject="blog")
    first.finish()
    assert kit.start("deploy", GIVEN, subject="shop").shown["number"] == 2


@pytest.mark.parametrize("ill", [False, True])
def test_whoever_dies_wherever_all_stages_have_the_same_release(ill: bool) -> None:
    """The new one when it is healthy, else the old one."""

    def scenario(arm: Callable[[Kit], None]) -> None:
        cluster = FakeCluster()
        if ill:
            cluster.ill.add(("europe", "v2"))
        with Kit(deploy(cluster)) as kit:
            arm(kit)
            run = kit.start("deploy", {**GIVEN, "stages": STAGES[:2]}).finish()
            assert run.status == ("failed" if ill else "completed")
            assert {cluster.runs[stage] for stage in STAGES[:2]} == {"v1" if ill else "v2"}

    assert "performed:rollback" in crash_everywhere(scenario, times=1)
