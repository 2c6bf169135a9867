"""The meter that counts, for Prometheus; and the text that Prometheus is given."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.core import GaugeMetricFamily

from taskflow.engine.meter import SILENT, Ended, Meter, Silent
from taskflow.engine.store import RunRow
from taskflow.observe.files import Identity, read_all
from taskflow.observe.table import BY_NAME, COUNTER, GAUGE, HISTOGRAM, METRICS

log = structlog.get_logger(__name__)

ROLES = ("worker", "web")

F = TypeVar("F", bound=Callable[..., Any])

#: The library says no types of it.
_multi_process_value: Any = values.MultiProcessValue
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

#: A gauge's values: (labels in the order of the table) -> value.
Readings = Mapping[str, Mapping[tuple[str, ...], float]]


def _unharmed(count: F) -> F:
    """What can't be counted (a file that can't grow) must not fail the work that is counted."""

    @functools.wraps(count)
    def counted(*args: Any, **kwargs: Any) -> Any:
        try:
            return count(*args, **kwargs)
        except OSError as error:
            log.warning("not_counted", what=count.__name__, error=repr(error))
            return None

    return counted  # type: ignore[return-value]


class Counting(Silent):
    """Counts in this process' files. Make it with ``counting``: there must be one of each process."""

    def __init__(self, identity: Identity) -> None:
        values.ValueClass = _multi_process_value(identity)  # what counters and histograms keep their values in
        registry = CollectorRegistry()
        found: dict[str, Any] = {
            metric.name: Counter(metric.name, metric.help, metric.labels, registry=registry)
            if metric.kind == COUNTER
            else Histogram(metric.name, metric.help, metric.labels, registry=registry, buckets=metric.buckets)
            for metric in METRICS
            if metric.kind in (COUNTER, HISTOGRAM)
        }
        self._steps = found["taskflow_steps_total"]
        self._step = found["taskflow_step_seconds"]
        self._late = found["taskflow_alarm_late_seconds"]
        self._taken_over = found["taskflow_leases_taken_over_total"]
        self._runs_ended = found["taskflow_runs_ended_total"]
        self._rescued = found["taskflow_rescued_total"]
        self._sweeps = found["taskflow_sweeps_total"]
        self._sweep = found["taskflow_sweep_seconds"]
        self._callbacks = found["taskflow_callbacks_total"]
        self._submitted = found["taskflow_runs_submitted_total"]
        self._requests = found["taskflow_http_requests_total"]
        self._request = found["taskflow_http_request_seconds"]
        #: What a step counts in, by its labels: to ask the library for it each time costs as much as to count.
        self._of_step: dict[tuple[str, str, str], tuple[Any, Any]] = {}

    @_unharmed
    def alarm_fired(self, late_s: float, *, taken_over: bool) -> None:
        """See ``Meter``."""
        self._late.observe(max(0.0, late_s))
        if taken_over:
            self._taken_over.inc()

    def step_begins(self, run: RunRow, attempt: int) -> Ended:
        """See ``Meter``."""
        began = time.perf_counter()
        return lambda became: self._step_ended(run, became, time.perf_counter() - began)

    @_unharmed
    def _step_ended(self, run: RunRow, became: str, took_s: float) -> None:
        labels = (run.pipeline, run.step, became)
        found = self._of_step.get(labels)
        if found is None:
            found = self._of_step[labels] = (self._steps.labels(*labels), self._step.labels(run.pipeline, run.step))
        count, duration = found
        count.inc()
        duration.observe(took_s)

    @_unharmed
    def run_ended(self, run: RunRow) -> None:
        """See ``Meter``."""
        outcome = "failed" if run.error is not None else "done"
        if outcome == "done" and run.cancel_requested_at is not None:
            outcome = "cancelled"
        self._runs_ended.labels(run.pipeline, outcome).inc()

    @_unharmed
    def rescued(self, *, rebuilt: int, rung: int) -> None:
        """See ``Meter``."""
        self._rescued.labels("rebuilt").inc(rebuilt)
        self._rescued.labels("rung").inc(rung)

    @_unharmed
    def run_submitted(self, run: RunRow, took_s: float) -> None:
        """See ``Meter``."""
        self._submitted.labels(run.pipeline).inc()

    @_unharmed
    def callback(self, kind: str, outcome: str, *, run_id: str, took_s: float) -> None:
        """See ``Meter``."""
        self._callbacks.labels(kind, outcome).inc()

    @_unharmed
    def sweep_ended(self, name: str, result: str, took_s: float) -> None:
        """See ``Meter``."""
        self._sweeps.labels(name, result).inc()
        self._sweep.labels(name).observe(took_s)

    @_unharmed
    def request(self, method: str, route: str, status: int, took_s: float) -> None:
        """See ``Meter``."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._request.labels(method, route).observe(took_s)


_mutex = threading.Lock()
_made: dict[Path, Counting] = {}


def counting(directory: Path, role: str) -> Meter:
    """The meter of this process. ``role``: what kind of process counts; another directory replaces the one before.

    Where its files can't be made (a full disk) the process works on and is not counted.
    """
    with _mutex:
        if directory not in _made:
            _made.clear()
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)  # where the library looks for it
            try:
                _made[directory] = Counting(Identity(directory, role))
            except OSError as error:
                log.warning("not_counted", directory=str(directory), error=repr(error))
                return SILENT
        return _made[directory]


class _Gauges:
    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """What was read, as the library wants it."""
        for name, found in self._readings.items():
            metric = BY_NAME[name]
            assert metric.kind == GAUGE, name
            family = GaugeMetricFamily(name, metric.help, labels=metric.labels)
            for labels, value in found.items():
                family.add_metric(labels, value)
            yield family


class _Counts:
    def __init__(self, found: list[Any]) -> None:
        self._found = found

    def collect(self) -> list[Any]:
        """What the processes counted."""
        return self._found


def exposition(directory: Path, readings: Readings) -> bytes:
    """The text for Prometheus (format 0.0.4): what the processes of this host counted, and ``readings`` of gauges."""
    found, processes = read_all(directory)
    registry = CollectorRegistry()
    registry.register(_Counts(found))
    lives: dict[tuple[str, ...], float] = {(role,): float(processes.get(role, 0)) for role in ROLES}
    registry.register(_Gauges({**readings, "taskflow_processes": lives}))
    return generate_latest(registry)
