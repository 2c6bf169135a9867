"""``ETag`` and ``If-None-Match``: what was read before is not sent again while it is the same.

The tag is weak and a hash of what is answered: whatever an answer is made of, it changes when the answer does.
"""

from __future__ import annotations

import hashlib

from flask import Flask, Response, g, request

#: What an answer says beside its body.
_SAID = ("Content-Type", "X-Log-Next", "X-Log-Ended")


def register(app: Flask) -> None:
    """Tag what is read of ``app`` with a user's token."""
    app.after_request(_tag)


def _tag(response: Response) -> Response:
    read = request.method in ("GET", "HEAD") and response.status_code == 200
    guard = g.get("guard")
    if not read or guard is None or guard.scope != "api" or response.is_streamed:
        return response
    said = "\n".join(response.headers.get(name, "") for name in _SAID)
    response.set_etag(hashlib.sha256(said.encode() + b"\0" + response.get_data()).hexdigest()[:40], weak=True)
    if request.if_none_match.contains_weak(response.get_etag()[0] or ""):
        response.status_code = 304  # which is sent without a body
    return response
