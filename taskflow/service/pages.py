"""Cursors: the key of the last row of a page, as a text without a meaning of its own."""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any

from taskflow.errors import UsageError

PAGE_MAX = 200
_NUMBER_MAX = 2**63 - 1


def page_size(limit: int) -> int:
    """How many rows are read for a page of ``limit``: one more says whether there is a next page."""
    return max(1, min(limit, PAGE_MAX)) + 1


def encode_cursor(*key: float | int | str) -> str:
    """The cursor after the row with this key."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def decode_cursor(cursor: str, *kinds: type) -> tuple[Any, ...]:
    """The key in ``cursor``, whose parts are of these ``kinds`` (float, int, str). Raises ``UsageError``."""
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        if not isinstance(key, list) or len(key) != len(kinds):
            raise ValueError("another key")
        return tuple(_part(value, kind) for value, kind in zip(key, kinds, strict=True))
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error) as error:
        raise UsageError("the cursor is not one of ours", fields={"cursor": "malformed"}) from error


def _part(value: Any, kind: type) -> Any:
    if kind is str:
        # NUL, for one, is an error of some databases.
        if not (isinstance(value, str) and value.isascii() and value.isprintable()):
            raise ValueError("no id of ours")
        return value
    if isinstance(value, (bool, str)) or not abs(value) <= _NUMBER_MAX or not math.isfinite(value):
        raise ValueError("no number of ours")
    if kind is int and not isinstance(value, int):
        raise ValueError("no whole number")
    return kind(value)
