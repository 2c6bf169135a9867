"""The reference is what the code says: commands, tables, keys, statuses and steps."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import click
import pytest

from taskflow.db.models import Base
from taskflow.db.status import NODE_STATUSES, SESSION_STATUSES, WORKSPACE_STATUSES, mermaid
from taskflow.engine.pipeline import Pipeline, Step
from taskflow.settings import Settings
from tests.support import cli_docs, data_model_docs
from tests.support.house import ROOT
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld, make_world, migrated_file, world

__all__ = ["MakeWorld", "make_world", "migrated_file", "world"]

STATUSES_PAGE = ROOT / "docs" / "reference" / "statuses.md"
#: Settings of a step whose limit is computed from the run: what the page has to name.
COMPUTED = {"running": "session_grace_s", "warm": "node_warm_s"}


def test_the_page_of_commands_is_their_help() -> None:
    """docs/reference/cli.md is what the generator writes, and it has every command and option."""
    page = cli_docs.PAGE.read_text(encoding="utf-8")
    assert page == cli_docs.render(), "stale: run make reference"
    found = dict(cli_docs.commands())
    assert len(found) > 30
    for path, command in found.items():
        section = page[page.index(f"\n## {path}\n") :].split("\n## ")[1]
        options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
        assert [name for option in options for name in option.opts if name not in section] == [], path


def test_every_command_and_option_says_what_it_does() -> None:
    """An empty cell of the page would be a question nobody answers."""
    silent = [
        f"{path} {param.name}"
        for path, command in cli_docs.commands()
        for param in command.params
        if isinstance(param, click.Option) and not param.help
    ]
    assert silent == []
    assert [path for path, command in cli_docs.commands() if not command.help] == []


def test_the_page_of_tables_and_its_picture_are_the_models() -> None:
    """docs/reference/data-model.md and data-model.svg are what the generator writes; no table is left out."""
    page = data_model_docs.PAGE.read_text(encoding="utf-8")
    picture = data_model_docs.PICTURE.read_text(encoding="utf-8")
    assert page == data_model_docs.render(), "stale: run make reference"
    assert picture == data_model_docs.picture(), "stale: run make reference"
    for name in Base.metadata.tables:
        assert f"\n## {name}\n" in page and f">{name}</text>" in picture


def test_every_key_of_a_task_under_way_is_on_the_page(world: World) -> None:
    """Whatever the engine and the service write into Redis matches a documented pattern."""
    documented = [key for key, _, _ in data_model_docs.engine_keys()] + list(data_model_docs.OTHER_KEYS)
    assert len(documented) >= 7
    patterns = [
        re.sub(r"<\w+>", "*", key).replace("{prefix}", world.settings.key_prefix).replace("[", "[[]")
        for key in documented
    ]
    world.submit()
    world.service.health.pause_sweep("prune", paused=True)
    keys = [key.decode() for key in world.redis.scan_iter()]
    assert len(keys) >= 3
    assert [key for key in keys if not any(fnmatchcase(key, pattern) for pattern in patterns)] == []


@pytest.mark.parametrize("key", data_model_docs.OTHER_KEYS)
def test_a_key_outside_of_the_engine_is_made_where_the_generator_says(key: str) -> None:
    """So that it leaves the page with the code that made it."""
    file = (ROOT / data_model_docs.OTHER_KEYS[key][2]).read_text(encoding="utf-8")
    assert f"prefix}}:{key.split(':')[1]}" in file


def test_the_status_diagram_is_the_table() -> None:
    """docs/reference/statuses.md draws what taskflow/db/status.py says."""
    page = STATUSES_PAGE.read_text(encoding="utf-8")
    assert mermaid() in page
    named = set(re.findall(r"`(\w+)`", page))
    assert {*NODE_STATUSES, *WORKSPACE_STATUSES, *SESSION_STATUSES} - named == set()


@pytest.mark.parametrize(
    ("pipeline", "heading"), [("agent_task", "Steps of an agent task"), ("node", "Steps of a node")]
)
def test_the_tables_of_steps_are_the_pipelines(world: World, pipeline: str, heading: str) -> None:
    """Each step in its order, with the setting that limits it and nothing where there is no limit."""
    page = STATUSES_PAGE.read_text(encoding="utf-8")
    section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    table: Pipeline = world.app.pipelines[pipeline]
    assert [row[0] for row in rows[2:]] == [step.name for step in table.steps]
    for row, step in zip(rows[2:], table.steps, strict=True):
        assert _limit_is_said(step, row[2], world.settings), row


def _limit_is_said(step: Step, said: str, settings: Settings) -> bool:
    if step.skip:
        return "not part of this release" in said
    named = [name for name in re.findall(r"\w+", said) if hasattr(settings, name)]
    if step.limit_s is None:
        return said == "-" and not named
    if callable(step.limit_s):
        return COMPUTED[step.name] in named
    return [getattr(settings, name) for name in named] == [step.limit_s]
