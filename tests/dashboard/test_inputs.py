"""What a run is started with, as fields of a form."""

from __future__ import annotations

from typing import Any

import pytest
from marshmallow import Schema, fields, validate

from taskflow.engine.outcomes import Done
from taskflow.engine.pipeline import Pipeline, Step
from taskflow.service.pipelines import input_schema
from web.dashboard.inputs import fields_of


def _of(**parts: Any) -> dict[str, Any] | None:
    """The JSON Schema of a pipeline whose input has these parts."""
    schema = Schema.from_dict(parts)
    step = Step("only", lambda _context: Done({}))
    return input_schema(Pipeline(name="p", version=1, steps=(step,), closing=frozenset(), input_schema=schema))


def test_each_plain_value_has_a_field_that_can_write_it() -> None:
    """Texts, numbers, and a choice where there are few values; a hint says what fits and what is taken otherwise."""
    found = fields_of(
        _of(
            name=fields.String(required=True, metadata={"description": "who"}),
            amount=fields.Integer(validate=validate.Range(1, 9), load_default=3),
            part=fields.Float(allow_none=True),
            at=fields.DateTime(),
            size=fields.String(validate=validate.OneOf(["s", "m"]), required=True),
            fast=fields.Boolean(load_default=False),
            made=fields.String(dump_only=True),
        )
    )
    assert found is not None
    assert [(one.name, one.kind, one.required, one.hint) for one in found] == [
        ("name", "string", True, "who, required"),
        ("amount", "number", False, "from 1 to 9, default: 3"),
        ("part", "number", False, ""),
        ("at", "string", False, "date-time"),
        ("size", "choice", True, "required"),
        ("fast", "choice", False, "default: no"),
    ]
    assert found[4].choices == [("", "choose one"), ('"s"', "s"), ('"m"', "m")]
    assert found[5].choices == [("", "leave it out"), ("true", "yes"), ("false", "no")]


@pytest.mark.parametrize(
    "part",
    [
        fields.List(fields.String()),
        fields.Dict(),
        fields.Nested(Schema.from_dict({"a": fields.Integer()})),
        fields.Raw(),
        fields.String(data_key="a.b"),
    ],
)
def test_what_is_more_than_plain_values_has_no_fields(part: fields.Field[Any]) -> None:
    """It is written as JSON; so is an object of which nothing is known. No input needs no field."""
    assert fields_of(_of(name=fields.String(), part=part)) is None
    assert fields_of({"type": "object"}) is None
    assert fields_of(None) == []
