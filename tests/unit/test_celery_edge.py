"""What Celery's signals start in a worker process."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from taskflow import celery
from tests.support.waiting import wait_until


def test_a_process_has_one_pump_however_often_it_is_told_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the solo pool the worker is its own child, and both signals come: two pumps would ring everything twice."""
    pumps: list[str] = []
    wired = SimpleNamespace(
        check_installation=lambda: None, announce=lambda: None, take_over=lambda: None,
        pump=SimpleNamespace(run_forever=lambda: pumps.append("pump")),
    )  # fmt: skip
    monkeypatch.setattr(celery.process, "get", lambda: wired)
    monkeypatch.setattr(celery.process, "_pumping", set())

    celery.process.begin()
    celery.process.begin()

    wait_until(lambda: not any(thread.name == "pump" for thread in threading.enumerate()), "the pump thread ended")
    assert pumps == ["pump"]
