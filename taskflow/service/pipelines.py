"""Which pipelines of one's own are registered, what each takes, and which signals it waits for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import marshmallow as ma
import structlog
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from taskflow.engine.pipeline import Pipeline
from taskflow.pipelines.registry import SHIPPED

log = structlog.get_logger(__name__)

_REFERENCE, _DEFINED = "#/components/schemas/", "#/$defs/"


class Pipelines:
    """Reads only. They are the installation's, so every owner sees the same."""

    def __init__(self, pipelines: Mapping[str, Pipeline]) -> None:
        self._pipelines = pipelines

    def list(self) -> list[dict[str, Any]]:
        """Those that a run may be started of, by name: ``name``, ``version``, ``steps`` (see ``step_rows``), ``signals``
        (empty: any) and ``input_schema``, a JSON Schema (None: no input is taken)."""
        return [
            {
                "name": name, "version": table.version, "steps": step_rows(table), "signals": sorted(table.signals),
                "input_schema": input_schema(table),
            }
            for name, table in sorted(self._pipelines.items())
            if name not in SHIPPED
        ]  # fmt: skip


def step_rows(table: Pipeline) -> list[dict[str, Any]]:
    """The steps of a pipeline in their order: ``name``, ``skip``, ``closing``, ``guarded``."""
    return [
        {"name": step.name, "skip": step.skip, "closing": step.name in table.closing, "guarded": step.guarded}
        for step in table.steps
    ]


def input_schema(table: Pipeline) -> dict[str, Any] | None:
    """What an input must fit, as a JSON Schema that refers to nothing outside itself; None when no input is taken.

    It may allow what ``load_input`` refuses: checks that are functions can't be written down. Of a schema that can't be
    written down at all it says that it is an object.
    """
    if table.input_schema is None:
        return None
    schema = table.input_schema() if isinstance(table.input_schema, type) else table.input_schema
    try:
        return _json_schema(schema)
    except Exception as error:  # whatever fields of somebody else's make of it: a run can be started all the same
        log.warning("input_schema_not_written", pipeline=table.name, error=repr(error))
        return {"type": "object"}


def _json_schema(schema: ma.Schema) -> dict[str, Any]:
    plugin = MarshmallowPlugin(schema_name_resolver=_Names())
    spec: Any = APISpec(title="input", version="1", openapi_version="3.1.0", plugins=[plugin])
    converter: Any = plugin.converter
    found = {**converter.schema2jsonschema(schema), "additionalProperties": schema.unknown != ma.RAISE}
    nested = spec.to_dict().get("components", {}).get("schemas", {})
    if nested:
        found["$defs"] = nested
    # What a schema says of itself (examples, say) may be no JSON.
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    _point_inside(plain)
    return plain


class _Names:
    """A name of its own for each nested schema."""

    def __init__(self) -> None:
        self._made = 0

    def __call__(self, schema: object) -> str:
        self._made += 1
        kind = schema if isinstance(schema, type) else type(schema)
        return f"{kind.__name__.strip('_')}{self._made}"


def _point_inside(found: Any) -> None:
    """Let each reference name the definition that came with it."""
    for part in found.values() if isinstance(found, dict) else found:
        if isinstance(part, (dict, list)):
            _point_inside(part)
    if isinstance(found, dict) and str(found.get("$ref", "")).startswith(_REFERENCE):
        found["$ref"] = _DEFINED + found["$ref"].removeprefix(_REFERENCE)
