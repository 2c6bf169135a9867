"""Pipelines of one's own are found by name, and what can't be used is said by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from taskflow.errors import UsageError
from taskflow.pipelines import Done, Pipeline, Step, registry
from taskflow.pipelines.registry import declared, own_pipelines
from taskflow.settings import Settings

Write = Callable[[str], str]
TOOLS: Any = SimpleNamespace(settings=Settings())
HEAD = "from taskflow.pipelines import Done, Pipeline, Step\n"
PLAIN = HEAD + "P = Pipeline('plain', 1, (Step('only', lambda ctx: Done()),))\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A module of the user's with this text; its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(text: str) -> str:
        name = f"theirs_{len(list(tmp_path.iterdir()))}_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return make


def _load(names: str) -> list[Pipeline]:
    return own_pipelines(declared(dataclasses.replace(Settings(), pipelines=names)), TOOLS)


def test_the_setting_names_pipelines_and_functions_that_make_them(write: Write) -> None:
    """Separated by commas; a function is given the tools."""
    module = write(PLAIN + "def make(tools):\n    return Pipeline('made', 2, P.steps)\n")
    assert [one.name for one in _load(f"{module}:P, {module}:make")] == ["plain", "made"]


def test_an_entry_point_registers_a_pipeline(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installing a distribution is enough."""
    point = EntryPoint("plain", f"{write(PLAIN)}:P", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.GROUP else [])
    assert [one.name for one in _load("")] == ["plain"]


@pytest.mark.parametrize(
    ("text", "attribute", "says"),
    [
        (None, "P", "ModuleNotFoundError"),
        ("1 / 0\n", "P", "ZeroDivisionError"),
        (PLAIN, "Q", "has no attribute 'Q'"),
        (PLAIN, "", "must be module:attribute"),
        ("P = 3\n", "P", "is int, not a Pipeline"),
        ("def P(tools):\n    return 3\n", "P", "is int, not a Pipeline"),
        ("def P(tools):\n    raise KeyError('no key')\n", "P", "KeyError: 'no key'"),
        (PLAIN.replace("'plain'", "'agent_task'"), "P", "is taskflow's own"),
        (PLAIN.replace("'plain'", "'Plain Text'"), "P", "must be lower case"),
        (PLAIN.replace("'only'", "'$only'"), "P", "does not begin with $"),
        (PLAIN.replace("(Step('only', lambda ctx: Done()),)", "()"), "P", "has no step"),
        (PLAIN.replace("),))", "),), signals=frozenset({'paid', 'pay ment'}))"), "P", "the signal 'pay ment'"),
    ],
)
def test_what_can_not_be_used_is_refused_saying_where_it_was_named(
    write: Write, text: str | None, attribute: str, says: str
) -> None:
    """No process starts with half of its pipelines."""
    name = f"{'missing_module' if text is None else write(text)}:{attribute}"
    with pytest.raises(UsageError, match="TASKFLOW_PIPELINES") as refused:
        _load(name)
    assert says in refused.value.message
    assert name in refused.value.message


def test_a_name_is_taken_once(write: Write) -> None:
    """The message names both; the same object may be registered twice."""
    first, second = write(PLAIN), write(PLAIN)
    with pytest.raises(UsageError) as refused:
        _load(f"{first}:P,{second}:P")
    assert f"taken by TASKFLOW_PIPELINES: {first}:P" in refused.value.message
    assert len(_load(f"{first}:P,{first}:P")) == 1


def test_a_pipeline_needs_no_more_than_steps() -> None:
    """Closing steps, cancel, failure and input have defaults."""
    pipeline = Pipeline("small", 1, (Step("only", lambda ctx: Done()),))
    assert (pipeline.first, pipeline.first_closing, pipeline.input_schema) == ("only", None, None)
