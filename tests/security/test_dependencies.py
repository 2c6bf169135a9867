"""What is installed is what was looked at: every dependency is pinned to one version."""

from __future__ import annotations

import re
from importlib.metadata import distribution, distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.!+_-]+)")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins() -> dict[str, str]:
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    found = [_PIN.fullmatch(line) for line in lines if line and not line.startswith("#")]
    assert all(found), "a line of constraints.txt is no exact version"
    return {_plain(match["name"]): match["version"] for match in found if match}


def _needed() -> set[str]:
    """Everything that an installation with all extras brings, by walking what the distributions require."""
    needed: set[str] = set()
    waiting = [("taskflow-engine", frozenset({"test", "dev", "docs"}))]
    while waiting:
        name, extras = waiting.pop()
        for text in requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is not None and not any(
                requirement.marker.evaluate({"extra": extra}) for extra in (*extras, "")
            ):
                continue
            plain = _plain(requirement.name)
            if plain not in needed:
                needed.add(plain)
                waiting.append((requirement.name, frozenset(requirement.extras)))
    return needed


def test_every_dependency_is_pinned_to_what_is_installed() -> None:
    """Also those of dependencies: a release that nobody looked at does not get in by itself."""
    pins, needed = _pins(), _needed()
    assert sorted(needed - set(pins)) == []
    installed = {_plain(found.metadata["Name"]): found.version for found in distributions()}
    assert {name: version for name, version in pins.items() if installed.get(name, version) != version} == {}
    assert len(needed) > 50


def test_the_pinned_celery_is_one_that_outlives_its_broker() -> None:
    """5.7.0 does not; see tests/integration/test_celery_restart.py."""
    assert distribution("celery").version.startswith("5.6.")
