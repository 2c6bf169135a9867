"""What texts have to look like, told to the document: our own checks as patterns, wherever a pattern can say it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from marshmallow import fields, validate

from web.api import texts

_ID = r"[A-Za-z0-9_.:-]{1,80}"
_NUMBER, _POINT = r"[0-9]{1,18}", r"-?[0-9]{1,12}(\.[0-9]{1,60})?"
ID = rf"^{_ID}$"
#: Cursors: any text of the form is a place in its list.
NUMBER_CURSOR = rf"^{_NUMBER}$"
POINT_CURSOR = rf"^{_POINT}~{_ID}$"
FEED_CURSOR = rf"^(now|{_NUMBER}-{_NUMBER})$"

_PATTERNS: Mapping[Callable[[Any], None], str] = {
    texts.identifier: ID,
    texts.project: r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?$",
    texts.label: r"^[^\u0000:]{1,100}:[^\u0000]{0,500}$",
    texts.plain: r"^[^\u0000]*$",
    texts.argument: r"^[^\u0000]*$",
    texts.branch: r"^(?!-)(?!@$)(?!/)(?!\.)(?!.*(\.\.|@\{|//|/\.))(?!.*\.lock(/|$))(?!.*[/.]$)"
    r"[^\u0000-\u0020\u007f~^:?*\[\\]{1,500}$",
    texts.variable_name: r"^(?![Tt][Aa][Ss][Kk][Ff][Ll][Oo][Ww]_)[A-Za-z_][A-Za-z0-9_]{0,254}$",
}


def describe(_converter: object, field: fields.Field[Any], **_: Any) -> dict[str, Any]:
    """What the checks of ``field`` say, in the words of JSON Schema."""
    found: dict[str, Any] = {}
    for check in field.validators:
        if check in _PATTERNS and "pattern" not in field.metadata:
            found["pattern"] = _PATTERNS[check]
        if isinstance(check, validate.Range) and not check.min_inclusive:
            found["exclusiveMinimum"] = check.min
    if isinstance(field, fields.Dict) and field.key_field is not None:
        names = describe(_converter, field.key_field)
        found |= {"propertyNames": names} if names else {}
    return found
