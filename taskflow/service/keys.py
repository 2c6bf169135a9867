"""What an idempotency key that was used otherwise is answered."""

from __future__ import annotations

from taskflow.errors import Conflict


def key_reused() -> Conflict:
    """The key of this request was used for another one."""
    return Conflict(
        "this idempotency key was used for another request",
        code="idempotency_key_reused",
        fields={"Idempotency-Key": "was used with other content"},
    )
