"""What the document says of texts is what the checks say, and a search for tasks by hand is the API's."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import ValidationError

from taskflow.cli.filters import task_query
from taskflow.clock import ManualClock
from taskflow.errors import UsageError
from taskflow.service.pages import decode_cursor, encode_cursor
from tests.support.world_fixtures import MakeWorld, make_world, migrated_file  # noqa: F401  fixtures
from web.api import forms, queries, texts

_TEXTS = {
    texts.identifier: ("task-1", "", "a b", "x" * 81, "é", "a\n"),
    texts.project: ("", "p", ".p", "p" * 64, "p" * 65, "a b"),
    texts.label: ("a:b", "a:", ":b", "ab", "a:b:c"),
    texts.branch: (
        "main", "a/b", "-a", "@", "a..b", "a.lock", "a.lock/b", "a/.b", ".a", "a/", "/a", "a//b", "a.", "a b", "a~b",
        "a@{b", "é", "a\\b", "", "x" * 501, "a.lockx", "a@b",
    ),
    texts.variable_name: ("A", "_a1", "1a", "TASKFLOW_X", "taskflow_x", "A-B", "", "TASKFLOWX"),
    texts.plain: ("a", "", "a\0b"),
}  # fmt: skip


def _takes(check: Any, text: str) -> bool:
    try:
        check(text)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, found in _TEXTS.items() for text in found])
def test_a_pattern_of_the_document_says_what_the_check_says(check: Any, text: str) -> None:
    """What fits the pattern is taken, what does not is refused."""
    pattern = forms._PATTERNS[check].replace("$", r"\Z")
    assert (re.search(pattern, text) is not None) == _takes(check, text)


def test_the_steps_of_the_document_are_those_of_the_pipeline(make_world: MakeWorld) -> None:  # noqa: F811
    """A step that can be asked for is one at which a task can be."""
    steps = make_world().app.pipelines["agent_task"].steps
    assert tuple(step.name for step in steps if not step.skip) == queries.STEPS


@given(st.floats(1e-3, 1e11) | st.floats(-1e11, -1e-3), st.from_regex(forms.ID.replace("$", r"\Z"), fullmatch=True))
def test_a_cursor_leads_back_to_its_row(at: float, row_id: str) -> None:
    """Exactly: a page that began a hair beside it would skip or repeat a row. And it has the form that is documented."""
    cursor = encode_cursor(at, row_id)
    assert decode_cursor(cursor, float, str) == (at, row_id)
    assert re.fullmatch(forms.POINT_CURSOR, cursor)
    assert len(cursor) <= 200


@pytest.mark.parametrize(
    "cursor", ["", "1", "1~", "~a", "1~a~b", "x~a", "1e5~a", "nan~a", "1~a b", "\u0661~a", "1~a\n"]
)
def test_any_other_text_is_no_cursor(cursor: str) -> None:
    """It is refused, whatever it is."""
    with pytest.raises(UsageError):
        decode_cursor(cursor, float, str)


def test_options_of_the_command_line_become_the_query() -> None:
    """Lengths of time are counted back from now; a point in time gets its offset."""
    clock = ManualClock(datetime(2026, 11, 26, 12, tzinfo=timezone.utc).timestamp())
    found = task_query(
        status=("failed", "cancelled"), label=("team=web", "a=b=c"), text="x", since="36h", before="2026-11-26T01:00:00Z",
        clock=clock,
    )  # fmt: skip
    assert found == {
        "status": "failed,cancelled", "label": ["team:web", "a:b=c"], "text": "x",
        "created_after": "2026-11-25T00:00:00Z", "created_before": "2026-11-26T01:00:00Z",
    }  # fmt: skip
    assert task_query() == {}


@pytest.mark.parametrize(
    "wrong", [{"since": "soon"}, {"before": "9" * 9 + "w"}, {"label": ("a",)}, {"label": ("a:b=c",)}]
)
def test_an_option_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    """As wrong usage, before anybody is asked."""
    with pytest.raises(click.BadParameter):
        task_query(**wrong)
