"""The files of counts: whoever reads, and whoever is killed while reading, loses none and counts none twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from taskflow.engine.store import RunRow
from taskflow.errors import InfrastructureError
from taskflow.file_lock import FileLock
from taskflow.observe import files
from taskflow.observe.counting import Counting
from taskflow.observe.files import Identity, read_all

ROW = RunRow("run-1", "agent_task", 1, "task", "t-1", 1, "o-1", "running", 1, 0.0, 0.0)  # type: ignore[arg-type]


def steps(directory: Path) -> float:
    """How many steps were counted there."""
    return sum(
        sample.value for metric in read_all(directory)[0] for sample in metric.samples
        if sample.name == "taskflow_steps_total"
    )  # fmt: skip


def die_after_steps(directory: Path, count: int) -> None:
    """A process that counts so many steps and is gone."""
    pid = os.fork()
    if pid == 0:
        meter = Counting(Identity(directory, "worker"))
        for _ in range(count):
            meter.step_begins(ROW, 1)("advanced")
        os._exit(0)
    os.waitpid(pid, 0)


class Killed(BaseException):
    """In the place of a SIGKILL."""


@pytest.mark.usefixtures("counted")
def test_a_reader_that_is_killed_anywhere_doubles_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies before each change of a file in turn; the next reader finds every count once."""
    begun = tmp_path / "begun"
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(begun))
    die_after_steps(begun, 2)
    assert steps(begun) == 2  # folded
    for count in (1, 4):
        die_after_steps(begun, count)
    originals = {name: getattr(Path, name) for name in ("replace", "unlink", "write_text")}
    left = 0

    def until_killed(name: str) -> Any:
        def change(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return originals[name](*args, **kwargs)

        return change

    survived, last = 0, False
    while not last:
        place = tmp_path / f"killed-{survived}"
        shutil.copytree(begun, place)
        left = survived
        with monkeypatch.context() as patched:
            for name in originals:
                patched.setattr(Path, name, until_killed(name))
            try:
                read_all(place)
                last = True
            except Killed:
                survived += 1
        assert steps(place) == steps(place) == 7, f"killed after {survived} changes"
        assert {path.name for path in place.glob("*folded*")} == {"counter_folded.db", "histogram_folded.db"}
    assert survived > 10


def test_two_readers_never_fold_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not come to its end keeps others out: a scrape that fails is better than counts that are doubled."""
    monkeypatch.setattr(files, "_WAIT_S", 0.0)
    other = FileLock(tmp_path / "readers.lock")
    assert other.acquire()
    with pytest.raises(InfrastructureError, match="another reader"):
        read_all(tmp_path)
    other.release()
    assert read_all(tmp_path) == ([], {})
