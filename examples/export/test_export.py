"""The export: approval, refusal, the end of patience, a cancel in its middle, and a crash at every place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from examples.export.pipeline import APPROVE_WITHIN_S, KEEP_S, Sample, export
from taskflow.testing import Kit, crash_everywhere

GIVEN = {"table": "customers", "requested_by": "ada@example.com"}
APPROVED = {"approved": True, "by": "bob@example.com"}


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    """An installation that knows the pipeline."""
    with Kit(export(Sample(), tmp_path)) as made:
        yield made


def _rows(directory: Path) -> int:
    return sum(len(file.read_text().splitlines()) for file in directory.glob("*/*.csv"))


def test_an_approved_export_is_there_for_a_week(kit: Kit, tmp_path: Path) -> None:
    """And then it is not."""
    run = kit.start("export", GIVEN)
    assert (run.status, run.awaiting, run.results["rows"]) == ("waiting", "approval", 2500)
    run.signal("approval", APPROVED)
    assert (run.step, _rows(tmp_path)) == ("keep", 2500)
    kit.advance(KEEP_S - 60)
    assert _rows(tmp_path) == 2500
    kit.advance(120)
    assert (run.status, run.result, list(tmp_path.glob("*"))) == ("completed", {"rows": 2500}, [])


def test_who_asked_can_not_approve(kit: Kit, tmp_path: Path) -> None:
    """Somebody else still can: each message has an id of its own."""
    run = kit.start("export", GIVEN)
    run.signal("approval", {"approved": True, "by": "ada@example.com"}, message_id="1")
    assert (run.status, _rows(tmp_path)) == ("waiting", 0)
    run.signal("approval", APPROVED, message_id="2")
    assert run.results["approved_by"] == "bob@example.com"


def test_who_approves_beside_who_asked_is_heard(kit: Kit) -> None:
    """Both messages are there when it is looked; the second one counts."""
    run = kit.start("export", GIVEN)
    known = kit.app.pipelines.pop("export")  # nobody looks
    run.signal("approval", {"approved": True, "by": "ada@example.com"}, message_id="1")
    run.signal("approval", APPROVED, message_id="2")
    kit.app.pipelines["export"] = known
    kit.advance_until(lambda: run.step == "keep", "it is approved and written", limit_s=120)
    assert run.results["approved_by"] == "bob@example.com"


@pytest.mark.parametrize("how", ["refused", "nobody"])
def test_what_is_not_approved_never_leaves(kit: Kit, tmp_path: Path, how: str) -> None:
    """A refusal ends it at once, silence after three days."""
    run = kit.start("export", GIVEN)
    if how == "refused":
        run.signal("approval", {"approved": False, "by": "bob@example.com"})
    kit.advance(APPROVE_WITHIN_S + 1)
    assert run.error is not None
    assert run.error["code"] == {"refused": "refused", "nobody": "step_timeout"}[how]
    assert (run.status, _rows(tmp_path)) == ("failed", 0)


def test_a_cancelled_export_leaves_nothing(kit: Kit, tmp_path: Path) -> None:
    """Also after it was written."""
    run = kit.start("export", GIVEN)
    run.signal("approval", APPROVED)
    assert _rows(tmp_path) == 2500
    run.cancel("wrong table")
    assert (run.status, list(tmp_path.glob("*"))) == ("cancelled", [])


def test_whoever_dies_wherever_every_row_is_there_once() -> None:
    """A crash at each place, in the middle of the pages too."""

    def scenario(arm: Callable[[Kit], None]) -> None:
        with tempfile.TemporaryDirectory() as name, Kit(export(Sample(), Path(name))) as kit:
            arm(kit)
            run = kit.start("export", GIVEN)
            run.signal("approval", APPROVED)
            kit.advance_until(lambda: run.step == "keep", "all is written", limit_s=600)
            lines = [line for file in Path(name).glob("*/*.csv") for line in file.read_text().splitlines()]
            assert len(lines) == len(set(lines)) == 2500
            run.signal("downloaded")
            assert run.finish().result == {"rows": 2500}

    assert crash_everywhere(scenario).count("applied:write") >= 3
