"""What a run is started with, as fields of a form: only of a schema that is flat, and else not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: A name with a point in it would be taken for one within another.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
_NULL = "null"


@dataclass(frozen=True)
class InputField:
    """One field. ``kind``: how its text becomes a value: string, number, or choice (of ``choices``: its JSON, its name)."""

    name: str
    kind: str
    hint: str
    required: bool
    choices: Sequence[tuple[str, str]] = ()


def fields_of(schema: Mapping[str, Any] | None) -> list[InputField] | None:
    """The fields of an input that fits this JSON Schema; None when it is more than names with plain values."""
    if schema is None:
        return []
    properties = {name: told for name, told in schema.get("properties", {}).items() if not told.get("readOnly")}
    if not properties and schema.get("additionalProperties", True):
        return None
    required = schema.get("required", ())
    found = [_field(name, told, name in required) for name, told in properties.items()]
    fields = [one for one in found if one is not None]
    return fields if len(fields) == len(found) else None


def _field(name: str, told: Mapping[str, Any], required: bool) -> InputField | None:
    """None: no plain value, or none that a form can write."""
    types = told.get("type", ())
    plain = {types} if isinstance(types, str) else set(types)
    plain.discard(_NULL)
    if not _NAME.fullmatch(name) or len(plain) != 1:
        return None
    (kind,) = plain
    values = [value for value in told.get("enum", ()) if value is not None] or (
        [True, False] if kind == "boolean" else []
    )
    hint = _hint(told, required)
    if values:
        choices = [
            ("", "choose one" if required else "leave it out"),
            *((json.dumps(one), _said(one)) for one in values),
        ]
        return InputField(name, "choice", hint, required, choices)
    kinds = {"string": "string", "integer": "number", "number": "number"}
    return InputField(name, kinds[kind], hint, required) if kind in kinds else None


def _hint(told: Mapping[str, Any], required: bool) -> str:
    least, most = told.get("minimum"), told.get("maximum")
    span = f"from {least}" if least is not None else ""
    if most is not None:
        span = f"{span} to {most}" if span else f"at most {most}"
    default = told.get("default")
    parts = (
        told.get("description") or told.get("format") or "", span, "required" if required else "",
        "" if default in (None, "") else f"default: {_said(default)}",
    )  # fmt: skip
    return ", ".join(part for part in parts if part)


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
