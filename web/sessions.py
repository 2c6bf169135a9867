"""The session of a browser."""

from __future__ import annotations

from flask import g


def csrf_token() -> str:
    """What a request of this browser that writes has to carry, as the header ``X-CSRF-Token`` or the field
    ``csrf_token``; '' for a caller who shows a bearer token, which needs none."""
    return str(g.get("csrf_token", ""))
