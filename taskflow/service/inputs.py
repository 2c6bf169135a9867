"""What others send, fitted to a schema or to a size; what is wrong is said by the dotted name of each field."""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import marshmallow as ma

from taskflow.engine.pipeline import Pipeline
from taskflow.errors import InvalidInput

#: Names in an answer come from the caller; an input full of wrong ones is not sent back whole.
_FIELDS_SHOWN_MAX = 50
NAME_SHOWN_MAX = 200
#: Longer names are near to none.
_NAME_COMPARED_MAX = 64


def wrong_fields(messages: Any, within: str = "", *, schema: object = None) -> dict[str, str]:
    """What marshmallow says is wrong, as ``{dotted name: text}``, at most 50 of them; names begin with ``within``.

    What is said of the whole is said of ``within``, or of ``body``. An unknown field is told a name of ``schema``, if that
    is one, which is near to its own.
    """
    found = itertools.islice(_flat(messages, (), schema), _FIELDS_SHOWN_MAX)
    return {".".join(filter(None, (within, name)))[:NAME_SHOWN_MAX] or "body": text for name, text in found}


def _flat(messages: Any, path: tuple[str, ...], schema: object) -> Iterator[tuple[str, str]]:
    """Nested messages as dotted names. ``key`` and ``value`` are marshmallow's words for the two sides of a mapping."""
    if not isinstance(messages, Mapping):
        texts = messages if isinstance(messages, (list, tuple)) else [messages]
        yield ".".join(path), " ".join(str(text) for text in texts)
        return
    for key, nested in messages.items():
        side = key in ("key", "value") and len(path) > 1
        schema_level = key == "_schema"
        field = schema.fields.get(key) if isinstance(schema, ma.Schema) else None
        inner = field.schema if isinstance(field, ma.fields.Nested) else None
        said = _with_near(key, nested, schema) if isinstance(schema, ma.Schema) and field is None else nested
        yield from _flat(said, path if side or schema_level else (*path, str(key)), inner)


def _with_near(name: Any, said: Any, schema: ma.Schema) -> Any:
    """What is said of a field that ``schema`` does not have, and which one may be meant."""
    if said != [schema.error_messages["unknown"]] or not isinstance(name, str) or len(name) > _NAME_COMPARED_MAX:
        return said
    takes = [field.data_key or known for known, field in schema.load_fields.items()]
    near = difflib.get_close_matches(name, takes, 1)
    return [f"{said[0]} Is {near[0]} meant?"] if near else said


def load_input(table: Pipeline, given: Mapping[str, Any], *, bytes_max: int) -> dict[str, Any]:
    """The input of a run as its pipeline's schema loads it, in JSON's own words (a date becomes a text again).

    Raises ``InvalidInput`` naming each wrong field as ``input.<name>``.
    """
    if table.input_schema is None:
        if given:
            raise InvalidInput(f"{table.name} takes no input", fields={"input": "must be empty"})
        return {}
    schema = table.input_schema() if isinstance(table.input_schema, type) else table.input_schema
    try:
        loaded = dict(schema.dump(schema.load(given)))
    except ma.ValidationError as error:
        fields = wrong_fields(error.messages, "input", schema=schema)
        # Not chained: the cause holds the values.
        raise InvalidInput("the input does not fit: " + ", ".join(sorted(fields)), fields=fields) from None
    check_size("input", loaded, bytes_max)
    return loaded


def check_size(what: str, given: Mapping[str, Any], bytes_max: int) -> None:
    """Raise ``InvalidInput`` for the field ``what`` unless ``given`` is JSON of at most ``bytes_max`` bytes."""
    try:
        size = len(json.dumps(given, allow_nan=False).encode())
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the {what} can't be written as JSON", fields={what: "is not JSON"}) from error
    if size > bytes_max:
        raise InvalidInput(
            f"the {what} is {size} bytes, more than {bytes_max}", fields={what: f"must be at most {bytes_max} bytes"},
            advice="put it somewhere and name the place",
        )  # fmt: skip
