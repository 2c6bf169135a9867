"""Cursors: the key of the last row of a page, as a text that clients send back and read nothing out of."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from taskflow.errors import UsageError

PAGE_MAX = 200
#: Between the parts of a key. No part holds it.
_BETWEEN = "~"
_FORMS = {
    int: re.compile(r"[0-9]{1,18}", re.ASCII),
    float: re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,60})?", re.ASCII),
    str: re.compile(r"[A-Za-z0-9_.:-]{1,80}", re.ASCII),
}


def page_size(limit: int) -> int:
    """How many rows are read for a page of ``limit``: one more says whether there is a next page."""
    return max(1, min(limit, PAGE_MAX)) + 1


def encode_cursor(*key: float | int | str) -> str:
    """The cursor after the row with this key."""
    return _BETWEEN.join(format(Decimal(repr(part)), "f") if isinstance(part, float) else str(part) for part in key)


def decode_cursor(cursor: str, *kinds: type) -> tuple[Any, ...]:
    """The key in ``cursor``, whose parts are of these ``kinds`` (float, int, str). Raises ``UsageError``.

    Any text of that form is a place in the list, whether or not there is a row at it.
    """
    parts = cursor.split(_BETWEEN)
    if len(parts) != len(kinds) or not all(
        _FORMS[kind].fullmatch(part) for kind, part in zip(kinds, parts, strict=True)
    ):
        raise UsageError("the cursor is not one of ours", fields={"cursor": "malformed"})
    return tuple(kind(part) for kind, part in zip(kinds, parts, strict=True))
