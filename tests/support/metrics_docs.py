"""Writes docs/reference/metrics.md from the table of metrics: ``python -m tests.support.metrics_docs``."""

from __future__ import annotations

from pathlib import Path

from taskflow.observe.table import GAUGE, METRICS, Metric

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"

_HEAD = """# Metrics

`GET /metrics`, in the text format of Prometheus, with the bearer token that `taskflow metrics --token` prints
([how to monitor](../how-to/monitor.md)). They are about everybody's tasks together: no label is an id, an owner or a text.

Counters and histograms are counted by the processes of one host and added up there; they never fall while the data
directory stays. A histogram has `_bucket`, `_sum` and `_count`. Gauges are read from the stores at each scrape.

This page is made by `python -m tests.support.metrics_docs` from `taskflow/observe/table.py`; a test compares the two.
"""
_TABLE = """
## {title}

| metric | kind | labels | what it says |
|---|---|---|---|
"""


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |\n"


def render() -> str:
    """The page as it should be."""
    counted = "".join(_row(metric) for metric in METRICS if metric.kind != GAUGE)
    read = "".join(_row(metric) for metric in METRICS if metric.kind == GAUGE)
    return _HEAD + _TABLE.format(title="Counted") + counted + _TABLE.format(title="Read at each scrape") + read


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
