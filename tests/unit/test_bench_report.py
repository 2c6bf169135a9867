"""What a measurement answers, also where nothing came in the time it was watched."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import NoReturn

import pytest

from bench import plots, subjects
from bench.__main__ import ALONE, WORKLOADS, main
from bench.measuring import interleaved, lateness
from bench.report import Measured, median
from bench.workloads import scale


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 3.0, 2.0], 2.0), ([1.0, None, 2.0], 2.0), ([1.0, None, None], None), ([None], None)],
)
def test_what_never_came_is_later_than_everything_that_did(values: list[float | None], expected: float | None) -> None:
    """A median over rounds in which most saw nothing is nothing, not the few that did."""
    assert median(values) == expected


def test_a_report_has_medians_for_both_and_says_what_was_not_seen() -> None:
    """null for programs, ">120" for people; the worst round is never hidden."""
    measured = Measured("recovery", {"lease_s": 5.0}, watched_s=120.0)
    measured.rounds += [
        {"taskflow": {"worker_kill_s": 5.0}, "celery": {"worker_kill_s": None}},
        {"taskflow": {"worker_kill_s": 5.5}, "celery": {"worker_kill_s": 100.0}},
        {"taskflow": {"worker_kill_s": 4.5}, "celery": {"worker_kill_s": None}},
    ]

    found = measured.as_dict()

    assert found["median"] == {"taskflow": {"worker_kill_s": 5.0}, "celery": {"worker_kill_s": None}}
    assert found["said"] == {"taskflow": {}, "celery": {"worker_kill_s": ">120"}}
    assert len(found["rounds"]) == 3
    assert found["ratio"] == {"celery": {"taskflow": {"worker_kill_s": None}}}
    line = measured.table().splitlines()[2].split()
    assert line == ["worker_kill_s", "5.00", "(4.50", "to", "5.50)", ">120", "(100.00", "to", ">120)"]


def test_a_ratio_is_ours_divided_by_the_peers_median() -> None:
    """More than one is more; a peer's figure of zero, or one that it lacks, makes no ratio."""
    measured = Measured("chain", {}, missing={"dbos": "no network"})
    measured.rounds += [
        {"taskflow": {"steps_per_s": 3000.0, "submit_s": 1.0}, "celery": {"steps_per_s": 1000.0, "submit_s": 0.0}},
        {"taskflow": {"steps_per_s": 2000.0, "submit_s": 1.0}, "celery": {"steps_per_s": 1000.0, "submit_s": 0.0}},
    ]

    found = measured.as_dict()

    assert found["ratio"] == {"celery": {"taskflow": {"steps_per_s": 2.5}}}
    assert found["spread"]["taskflow"]["steps_per_s"] == [2000.0, 3000.0]
    assert measured.table().splitlines()[-1] == "dbos is missing: no network"


def test_lateness_is_the_middle_and_the_hundredth_worst() -> None:
    """In milliseconds, of the times as they came, in any order."""
    assert lateness("late", [n / 1000 for n in range(200, -1, -1)]) == {"late_p50_ms": 100.0, "late_p99_ms": 198.0}


@pytest.mark.parametrize("name", [*subjects.OURS, *subjects.OURS_BY_STEP, *subjects.PEERS])
def test_every_subject_can_be_had_and_says_its_versions(name: str) -> None:
    """What the command line offers is there."""
    assert callable(subjects.ready(name))
    assert all(subjects.versions_of(name).values())


@pytest.mark.parametrize("name", [*WORKLOADS, *ALONE])
def test_every_workload_can_be_measured(name: str) -> None:
    """What the command line offers is there."""
    assert callable(importlib.import_module(f"bench.workloads.{name}").measure)


@pytest.mark.parametrize("wrong", [["nothing"], ["chain", "--rounds", "0"], ["submit", "--peer", "celery"], []])
def test_a_wrong_command_line_measures_nothing(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A usage error, before anything is started."""
    with pytest.raises(SystemExit) as left:
        main(wrong)
    assert left.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_peer_that_is_missing_is_said_to_be_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not installed is no figure and no crash."""

    class Nobody:
        def __enter__(self) -> None:
            raise subjects.Missing("there is no network")

        def __exit__(self, *_: object) -> None:
            """Never entered."""

    class Somebody(Nobody):
        def __enter__(self) -> None:
            """Ready."""

    monkeypatch.setattr("bench.measuring.ready", lambda name: Nobody if name == "restate" else Somebody)
    monkeypatch.setattr("bench.measuring.versions_of", lambda name: {name: "1"})

    found = interleaved("chain", 2, ["celery", "restate"], lambda subject: {"steps_per_s": 5.0}, {}).as_dict()

    assert found["missing"] == {"restate": "there is no network"}
    assert list(found["median"]) == ["taskflow", "taskflow_sqlite", "celery"]


_ROUND = {
    "taskflow": {"steps_per_s": 700.0, "task_p50_ms": 15.0},
    "celery": {"steps_per_s": 400.0, "task_p50_ms": 20.0},
}


def test_a_measurement_is_drawn_the_same_each_time_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    """A picture for each figure, with the names and values in it as text; nothing that runs or is fetched."""
    measured = Measured("chain", {})
    measured.rounds += [_ROUND, _ROUND]
    (tmp_path / "chain.json").write_text(json.dumps(measured.as_dict()))
    assert plots.main([str(tmp_path)]) == 0
    drawn = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert set(drawn) == {"chain-steps-per-s.svg", "chain-task-p50-ms.svg"}
    assert all(word in drawn["chain-steps-per-s.svg"] for word in ("taskflow", "Celery", ">700<", ">400<"))
    assert not any(word in text for text in drawn.values() for word in ("<script", "<image", "@import"))
    assert plots.main([str(tmp_path)]) == 0
    assert {path.name: path.read_text() for path in tmp_path.glob("*.svg")} == drawn


def test_others_are_drawn_in_another_colour_than_ours() -> None:
    """Whoever is offered as a peer, and nobody else; each under a name."""
    assert set(plots.LABELS) == {*subjects.OURS, *subjects.OURS_BY_STEP, *subjects.PEERS}
    (ours,) = {plots.color(name) for name in (*subjects.OURS, *subjects.OURS_BY_STEP, *scale.CASES)}
    (others,) = {plots.color(name) for name in subjects.PEERS}
    assert ours != others


def test_growth_is_a_line_for_each_operation() -> None:
    """Over the sizes that were measured; the ratios are no lines."""
    measured = Measured("grow", {"sizes": [1000, 10000]})
    measured.rounds.append({"taskflow": {"list_ms_1000": 4.0, "list_ms_10000": 5.0, "list_growth": 1.25}})
    ((name, picture),) = plots.pictures(measured.as_dict())
    assert name == "grow.svg"
    assert ">list<" in picture and "growth" not in picture


def test_a_folder_without_measurements_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written, and the folder is named."""
    with pytest.raises(SystemExit) as left:
        plots.main([str(tmp_path)])
    assert left.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_the_pictures_of_the_documentation_are_those_of_its_measurements() -> None:
    """Who measures again draws again."""
    folder = Path(__file__).parents[2] / "docs" / "explanation" / "measured"
    sources = sorted(folder.glob("*.json"))
    assert sources
    for source in sources:
        for name, picture in plots.pictures(json.loads(source.read_text())):
            assert (folder / name).read_text() == picture, f"python -m bench.plots {folder}"


def test_a_workload_that_can_not_be_done_here_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Namespaces need root: the other cases are measured, and that one is missing."""

    def refused() -> NoReturn:
        raise subjects.Missing("ip netns add: not permitted")

    cases = {"one_process": lambda: {"steps_per_s": 5.0}, "two_hosts": refused}
    monkeypatch.setattr(scale, "CASES", cases)
    found = scale.measure(2, ()).as_dict()
    assert found["missing"] == {"two_hosts": "ip netns add: not permitted"}
    assert found["median"] == {"one_process": {"steps_per_s": 5.0}}
    assert found["ratio"] == {}
