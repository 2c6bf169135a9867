"""Every metric, in one table. ``docs/reference/metrics.md`` is made from it; dashboards and alerts are checked by it.

Labels hold names out of a fixed set: of pipelines, steps, routes, statuses. Never an id, an owner or a text.
"""

from __future__ import annotations

from dataclasses import dataclass

_TURNS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_LATE = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_REQUESTS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


@dataclass(frozen=True)
class Metric:
    """One metric. Counters and histograms are counted by the processes of a host; gauges are read from the stores."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


def _counted(name: str, labels: str, help: str) -> Metric:
    return Metric(f"taskflow_{name}_total", COUNTER, tuple(labels.split()), help)


def _timed(name: str, labels: str, help: str, buckets: tuple[float, ...]) -> Metric:
    return Metric(f"taskflow_{name}_seconds", HISTOGRAM, tuple(labels.split()), help, buckets)


def _read(name: str, labels: str, help: str) -> Metric:
    return Metric(f"taskflow_{name}", GAUGE, tuple(labels.split()), help)


METRICS: tuple[Metric, ...] = (
    # --- counted by workers
    _counted(
        "steps",
        "pipeline step outcome",
        "attempts of steps by what they decided: advanced, snoozed, waits, done, retried, failed, superseded, broken_off",
    ),
    _timed("step", "pipeline step", "how long one attempt took, from its decision until it was written", _TURNS),
    _timed("alarm_late", "", "how long after its due time an alarm began a turn", _LATE),
    _counted("leases_taken_over", "", "turns that follow one which took the lease and never came back"),
    _counted("runs_ended", "pipeline outcome", "runs that are over: done, failed or cancelled"),
    _counted("rescued", "what", "by the rescue: control state rebuilt, runs rung for a signal that was recorded"),
    _counted("sweeps", "sweep result", "scheduled jobs that ran: ok, degraded, failed or paused"),
    _timed("sweep", "sweep", "how long a scheduled job took", _TURNS),
    # --- counted by web processes
    _counted(
        "callbacks",
        "kind outcome",
        "reports of nodes and workspaces: recorded, or why not (gone, conflict, not_found, forbidden, invalid, error)",
    ),
    _counted("runs_submitted", "pipeline", "runs that were made at somebody's request"),
    _counted(
        "http_requests", "method route status", "answers by the rule of their route; none: there is no such route"
    ),
    _timed("http_request", "method route", "until the answer, or the first byte of a stream, was ready", _REQUESTS),
    # --- read at each scrape
    _read(
        "store_up",
        "store",
        "1 when the database, Redis or the broker answered this scrape, else 0, and its gauges are missing",
    ),
    _read("processes", "role", "processes of this host that count: worker (each process of the pool) and web"),
    _read("tasks", "status", "tasks that have not ended"),
    _read("runs_open", "pipeline step", "runs that are not over, by the step they are at"),
    _read("alarms_overdue", "", "runs whose alarm should have begun a turn longer ago than TASKFLOW_ALARM_OVERDUE_S"),
    _read("queue_depth", "queue", "messages that wait in the broker: alarm, sweep"),
    _read("nodes", "provider status", "nodes that are not destroyed"),
    _read("nodes_unreachable", "provider", "nodes that are not heard of"),
    _read("provider_resting", "provider", "1 while nothing is bought there because the account is full"),
    _read("provider_blocked", "provider", "1 while nothing is bought there because the credential was refused"),
    _read("sweep_last_success_timestamp_seconds", "sweep", "when a scheduled job last succeeded; missing: never"),
    _read("sweep_interval_seconds", "sweep", "how often it should run"),
    _read("sweep_failing_items", "sweep", "items that it fails at, each of which rests between two tries"),
    _read("outbox_open", "", "promises of transactions that are not kept yet"),
    _read("outbox_failing", "", "of these, the ones that were tried three times or more"),
    _read("disk_free_bytes", "", "room on the disk of the data directory"),
    _read("disk_size_bytes", "", "size of that disk"),
)
BY_NAME = {metric.name: metric for metric in METRICS}
