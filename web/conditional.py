"""``ETag`` and ``If-None-Match``: what was read before is not sent again while it is the same.

The tag is weak and a hash of what is answered: whatever an answer is made of, it changes when the answer does.
"""

from __future__ import annotations

from flask import Flask, Response, g, request


def register(app: Flask) -> None:
    """Tag what is read of ``app`` with a user's token."""
    app.after_request(_tag)


def _tag(response: Response) -> Response:
    read = request.method in ("GET", "HEAD") and response.status_code == 200
    guard = g.get("guard")
    if not read or guard is None or guard.scope != "api" or response.is_streamed:
        return response
    response.add_etag(weak=True)
    if request.if_none_match.contains_weak(response.get_etag()[0] or ""):
        response.status_code = 304  # which is sent without a body
    return response
