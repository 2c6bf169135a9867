"""What operators are given: every query names metrics and labels that exist, and each metric is on the dashboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from taskflow.observe.table import BY_NAME, HISTOGRAM
from tests.support import dashboard

OPS = Path(__file__).parents[2] / "docs" / "ops"
#: What has to be watched, by the name of its alert.
WATCHED = {
    "TaskflowAlarmsLate", "TaskflowAlarmsOverdue", "TaskflowSweepLate", "TaskflowSweepNeverSucceeded",
    "TaskflowNoWorker", "TaskflowStoreAway", "TaskflowDeadLettersRise", "TaskflowTasksFail", "TaskflowProviderBlocked",
    "TaskflowProviderRests", "TaskflowLeasesTakenOver", "TaskflowNodesUnheard", "TaskflowRequestsFail",
    "TaskflowDiskFull",
}  # fmt: skip
#: Labels that Prometheus adds itself.
_ADDED = {"instance", "job", "le"}


def _rules() -> list[dict[str, Any]]:
    read = yaml.safe_load((OPS / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in read["groups"] for rule in group["rules"]]


def _shown() -> Iterator[str]:
    for panel in json.loads((OPS / "dashboard.json").read_text(encoding="utf-8"))["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))


def _metrics_in(query: str) -> set[str]:
    return set(re.findall(r"\btaskflow_\w+", query))


def _unknown(query: str) -> list[str]:
    """Metrics and labels of ``query`` that the table does not have."""
    found, labels = [], set(_ADDED)
    for name in _metrics_in(query):
        metric = BY_NAME.get(name) or BY_NAME.get(name.removesuffix("_bucket"))
        if metric is None or (name not in BY_NAME and metric.kind != HISTOGRAM):
            found.append(name)
        else:
            labels |= set(metric.labels)
    named = {label.strip() for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for label in group.split(",")}
    named |= set(re.findall(r"[{,](\w+)(?:=~|=|!=)", query))
    return found + sorted(named - labels)


@pytest.mark.parametrize("rule", _rules(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_exists_and_says_what_to_do(rule: dict[str, Any]) -> None:
    """A rule about a metric that is not there would be silent for ever."""
    assert _metrics_in(rule["expr"])
    assert _unknown(rule["expr"]) == []
    assert rule["expr"].count("(") == rule["expr"].count(")")
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "do"}
    used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert used <= set(re.findall(r"\w+", rule["expr"])) | {
        label for name in _metrics_in(rule["expr"]) for label in BY_NAME[name.removesuffix("_bucket")].labels
    }


def test_what_has_to_be_watched_is() -> None:
    """An alert that is taken away is taken away here as well."""
    assert {rule["alert"] for rule in _rules()} == WATCHED


def test_the_dashboard_asks_for_what_exists_and_shows_everything() -> None:
    """Each query names known metrics and labels; no metric is without a panel."""
    shown = list(_shown())
    assert [wrong for query in shown for wrong in _unknown(query)] == []
    assert {name.removesuffix("_bucket") for query in shown for name in _metrics_in(query)} == set(BY_NAME)


def test_the_dashboard_is_what_its_generator_writes() -> None:
    """docs/ops/dashboard.json is up to date; else run: python -m tests.support.dashboard."""
    assert (OPS / "dashboard.json").read_text(encoding="utf-8") == dashboard.render()
    assert sorted(_shown()) == sorted(dashboard.queries())


def test_a_query_for_what_is_not_there_is_seen() -> None:
    """The check would notice a misspelt metric, a bucket of a counter and an unknown label."""
    assert _unknown("rate(taskflow_stepz_total[5m])") == ["taskflow_stepz_total"]
    assert _unknown("rate(taskflow_steps_total_bucket[5m])") == ["taskflow_steps_total_bucket"]
    assert _unknown('sum by (owner) (taskflow_tasks{task="x"})') == ["owner", "task"]
