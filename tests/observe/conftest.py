"""Worlds that somebody looks on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import values
from prometheus_client.parser import text_string_to_metric_families

from taskflow.service.metrics import meter_of
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld, make_world, migrated_file, world

__all__ = ["MakeWorld", "make_world", "migrated_file", "world"]


@dataclass
class Counted:
    """A world whose processes count, and what a scrape of it says."""

    world: World

    def samples(self) -> list[Any]:
        """Every sample, as a parser of the format reads it."""
        text = self.world.service.metrics.text().decode()
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def values(self, name: str, **labels: str) -> dict[str, float]:
        """The samples of a metric that have these labels, by all of their labels; a histogram's are its counts."""
        return {
            ",".join(sample.labels.values()): sample.value
            for sample in self.samples()
            if sample.name in (name, f"{name}_count") and labels.items() <= sample.labels.items()
        }

    def value(self, name: str, **labels: str) -> float:
        """Their sum."""
        return sum(self.values(name, **labels).values())


@pytest.fixture
def counted(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    """A world whose worker counts, from an empty directory."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    made = make_world()
    made.meter = meter_of(made.settings, "worker")
    made.start_worker()
    yield Counted(made)
