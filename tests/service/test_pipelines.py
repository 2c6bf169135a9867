"""What is said of registered pipelines: enough to start a run without reading their code."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import date
from typing import Any

import pytest
from marshmallow import INCLUDE, Schema, fields, validate

from taskflow.pipelines import Done, Pipeline, Step
from taskflow.service.pipelines import Pipelines, input_schema
from taskflow.testing import Kit


class _Line(Schema):
    item = fields.String(required=True, validate=validate.Length(1, 20))
    parts = fields.List(fields.Nested(lambda: _Line()))


class _Speed(enum.Enum):
    SLOW = "slow"
    FAST = "fast"


class _Order(Schema):
    amount = fields.Integer(required=True, strict=True, metadata={"description": "in cents"})
    lines = fields.List(fields.Nested(_Line), required=True)
    speed = fields.Enum(_Speed, by_value=True, load_default=_Speed.SLOW)
    due = fields.Date(load_default=None, allow_none=True, metadata={"example": date(2026, 1, 1)})


class _Loose(Schema):
    class Meta:
        unknown = INCLUDE


class _Broken(fields.Field[Any]):
    @property
    def metadata(self) -> Any:
        raise RuntimeError("no")

    @metadata.setter
    def metadata(self, value: object) -> None:
        pass


_STEPS = (Step("pay", lambda ctx: Done(), guarded=True), Step("tidy", lambda ctx: Done()))
ORDER = Pipeline("order", 3, _STEPS, frozenset({"tidy"}), input_schema=_Order, signals=frozenset({"paid", "note"}))
PLAIN = Pipeline("plain", 1, _STEPS)


def _parts(found: Any) -> list[Any]:
    inner = found.values() if isinstance(found, Mapping) else found if isinstance(found, list) else ()
    return [found, *(part for one in inner for part in _parts(one))]


def test_a_pipeline_says_its_steps_its_signals_and_what_it_takes() -> None:
    """By name; what the installation itself runs is not among them, because nobody can start it."""
    with Kit(PLAIN, ORDER) as kit:
        order, plain = kit.service.pipelines.list()
    assert (order["name"], order["version"], order["signals"]) == ("order", 3, ["note", "paid"])
    assert order["steps"] == [
        {"name": "pay", "skip": False, "closing": False, "guarded": True},
        {"name": "tidy", "skip": False, "closing": True, "guarded": False},
    ]
    assert (plain["signals"], plain["input_schema"]) == ([], None)
    assert Pipelines({"agent_task": PLAIN, "node": PLAIN}).list() == []


def test_an_input_is_described_by_a_schema_that_stands_alone() -> None:
    """With what is required, the words for people, nested schemas that contain themselves, and defaults as JSON."""
    found = input_schema(ORDER)
    assert found is not None
    assert found["required"] == ["amount", "lines"]
    assert found["properties"]["amount"] == {"type": "integer", "description": "in cents"}
    assert (found["properties"]["speed"]["enum"], found["properties"]["speed"]["default"]) == (["slow", "fast"], "slow")
    references = {part["$ref"] for part in _parts(found) if isinstance(part, Mapping) and "$ref" in part}
    assert references and references == {f"#/$defs/{name}" for name in found["$defs"]}
    (line,) = found["$defs"].values()
    assert line["required"] == ["item"]


@pytest.mark.parametrize(("schema", "more"), [(_Order, False), (_Loose, True), (_Loose(), True)])
def test_whether_further_fields_are_taken_is_said(schema: Any, more: bool) -> None:
    """As marshmallow treats what it does not know."""
    found = input_schema(Pipeline("any", 1, _STEPS, input_schema=schema))
    assert found is not None and found["additionalProperties"] is more


def test_a_schema_that_nobody_can_describe_does_not_hide_the_others() -> None:
    """It is said to be an object: whoever starts a run is told what does not fit."""
    schema = Schema.from_dict({"odd": _Broken()})
    assert input_schema(Pipeline("odd", 1, _STEPS, input_schema=schema)) == {"type": "object"}
