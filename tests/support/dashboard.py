"""Writes docs/ops/dashboard.json, a dashboard for Grafana: ``python -m tests.support.dashboard``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "ops" / "dashboard.json"

_WIDTH, _HEIGHT, _COLUMNS = 8, 7, 3
_RATE = "[$__rate_interval]"


def _quantile(part: float, metric: str, by: str = "") -> str:
    return f"histogram_quantile({part}, sum by (le{by}) (rate({metric}_bucket{_RATE})))"


#: Row -> its panels: title, unit, and (query, legend) each.
ROWS: dict[str, tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]] = {
    "Work": (
        ("Tasks that have not ended", "short", (("max by (status) (taskflow_tasks)", "{{status}}"),)),
        ("Runs by the step they are at", "short",
         (("max by (pipeline, step) (taskflow_runs_open)", "{{pipeline}}.{{step}}"),)),
        ("Runs that ended", "cps",
         ((f"sum by (pipeline, outcome) (rate(taskflow_runs_ended_total{_RATE}))", "{{pipeline}} {{outcome}}"),)),
        ("Runs submitted", "cps",
         ((f"sum by (pipeline) (rate(taskflow_runs_submitted_total{_RATE}))", "{{pipeline}}"),)),
        ("Attempts of steps by decision", "cps",
         ((f"sum by (outcome) (rate(taskflow_steps_total{_RATE}))", "{{outcome}}"),)),
        ("Duration of an attempt, p95", "s",
         ((_quantile(0.95, "taskflow_step_seconds", ", pipeline, step"), "{{pipeline}}.{{step}}"),)),
    ),
    "Engine": (
        ("How late alarms are", "s",
         ((_quantile(0.5, "taskflow_alarm_late_seconds"), "p50"), (_quantile(0.99, "taskflow_alarm_late_seconds"), "p99"))),
        ("Alarms overdue", "short", (("max(taskflow_alarms_overdue)", "overdue"),)),
        ("Messages that wait", "short", (("max by (queue) (taskflow_queue_depth)", "{{queue}}"),)),
        ("Leases taken over", "cps", ((f"sum(rate(taskflow_leases_taken_over_total{_RATE}))", "taken over"),)),
        ("Rescued", "cps", ((f"sum by (what) (rate(taskflow_rescued_total{_RATE}))", "{{what}}"),)),
        ("Processes", "short", (("sum by (role) (taskflow_processes)", "{{role}}"),)),
    ),
    "Sweeps": (
        ("Since their last success", "s",
         (("time() - max by (sweep) (taskflow_sweep_last_success_timestamp_seconds)", "{{sweep}}"),)),
        ("Results", "cps", ((f"sum by (sweep, result) (rate(taskflow_sweeps_total{_RATE}))", "{{sweep}} {{result}}"),)),
        ("Duration, p95", "s", ((_quantile(0.95, "taskflow_sweep_seconds", ", sweep"), "{{sweep}}"),)),
        ("Items that fail", "short", (("max by (sweep) (taskflow_sweep_failing_items)", "{{sweep}}"),)),
        ("Promises of transactions", "short",
         (("max(taskflow_outbox_open)", "open"), ("max(taskflow_outbox_failing)", "failing"))),
        ("Interval", "s", (("max by (sweep) (taskflow_sweep_interval_seconds)", "{{sweep}}"),)),
    ),
    "Nodes": (
        ("Nodes", "short", (("max by (provider, status) (taskflow_nodes)", "{{provider}} {{status}}"),)),
        ("Not heard of", "short", (("max by (provider) (taskflow_nodes_unreachable)", "{{provider}}"),)),
        ("Nothing is bought", "short",
         (("max by (provider) (taskflow_provider_resting)", "{{provider}} rests"),
          ("max by (provider) (taskflow_provider_blocked)", "{{provider}} is blocked"))),
        ("Reports", "cps", ((f"sum by (kind) (rate(taskflow_callbacks_total{_RATE}))", "{{kind}}"),)),
        ("Reports refused", "cps",
         ((f'sum by (kind, outcome) (rate(taskflow_callbacks_total{{outcome!="recorded"}}{_RATE}))',
           "{{kind}} {{outcome}}"),)),
    ),
    "Web and stores": (
        ("Requests by status", "reqps", ((f"sum by (status) (rate(taskflow_http_requests_total{_RATE}))", "{{status}}"),)),
        ("Duration of a request, p95", "s",
         ((_quantile(0.95, "taskflow_http_request_seconds", ", route"), "{{route}}"),)),
        ("Stores answer", "short", (("min by (store) (taskflow_store_up)", "{{store}}"),)),
        ("Free part of the disk", "percentunit",
         (("min by (instance) (taskflow_disk_free_bytes / taskflow_disk_size_bytes)", "{{instance}}"),)),
    ),
}  # fmt: skip


def queries() -> list[str]:
    """Every query of the dashboard."""
    return [query for panels in ROWS.values() for _, _, targets in panels for query, _ in targets]


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it; it asks for the data source."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(_panel(len(panels), "row", title, {"h": 1, "w": 24, "x": 0, "y": y}))
        y += 1
        for number, (name, unit, targets) in enumerate(row):
            x, line = _WIDTH * (number % _COLUMNS), number // _COLUMNS
            place = {"h": _HEIGHT, "w": _WIDTH, "x": x, "y": y + line * _HEIGHT}
            panels.append(_panel(len(panels), "timeseries", name, place, unit=unit, targets=targets))
        y += _HEIGHT * -(-len(row) // _COLUMNS)
    source = {"name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource", "pluginId": "prometheus"}
    return {
        "__inputs": [source], "title": "taskflow", "uid": "taskflow", "schemaVersion": 39, "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"}, "timezone": "browser", "tags": ["taskflow"], "panels": panels,
    }  # fmt: skip


def _panel(
    number: int, kind: str, title: str, place: dict[str, int], *, unit: str = "",
    targets: tuple[tuple[str, str], ...] = (),
) -> dict[str, Any]:  # fmt: skip
    panel: dict[str, Any] = {"id": number + 1, "type": kind, "title": title, "gridPos": place}
    if targets:
        source = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
        panel["datasource"] = source
        panel["fieldConfig"] = {"defaults": {"unit": unit, "min": 0}, "overrides": []}
        panel["targets"] = [
            {"refId": chr(ord("A") + at), "expr": query, "legendFormat": legend, "datasource": source}
            for at, (query, legend) in enumerate(targets)
        ]
    return panel


def render() -> str:
    """The file as it should be."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render(), encoding="utf-8")
