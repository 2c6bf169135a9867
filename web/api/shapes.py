"""Fields of answers. None is without a description: what reads the document has nothing else."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields


def time(description: str) -> fields.String:
    """A point in time, or null."""
    return fields.String(allow_none=True, metadata={"format": "date-time", "description": description})


def text(description: str, *, none: bool = False) -> fields.String:
    """A text."""
    return fields.String(allow_none=none, metadata={"description": description})


def free(description: str) -> fields.Dict:
    """An object of whatever keys, or null."""
    return fields.Dict(allow_none=True, metadata={"description": description})


def number(description: str, *, none: bool = False) -> fields.Float:
    """A number."""
    return fields.Float(allow_none=none, metadata={"description": description})


def count(description: str, *, none: bool = False) -> fields.Integer:
    """A whole number."""
    return fields.Integer(allow_none=none, metadata={"description": description})


def flag(description: str, *, none: bool = False) -> fields.Boolean:
    """Yes or no."""
    return fields.Boolean(allow_none=none, metadata={"description": description})


def listed(of: type[Schema], description: str) -> fields.List[Any]:
    """Several of these."""
    return fields.List(fields.Nested(of), metadata={"description": description})


def words(description: str, *, none: bool = False) -> fields.List[Any]:
    """Several texts."""
    return fields.List(fields.String(), allow_none=none, metadata={"description": description})


def pairs(description: str) -> fields.Dict:
    """Texts by a text."""
    return fields.Dict(keys=fields.String(), values=fields.String(), metadata={"description": description})


def nested(of: type[Schema], description: str, *, none: bool = False) -> fields.Nested:
    """One of these."""
    return fields.Nested(of, allow_none=none, metadata={"description": description})
