"""Every error of taskflow, in one tree. Two classes decide what the runner does; nobody parses messages.

::

    TaskflowError                 has a stable ``code``, a message, and ``advice`` (what to do)
    ├── StepError                 raised by a step; the runner turns it into a decision
    │   ├── TransientError        try again later (full jitter, bounded attempts)
    │   │   ├── OutcomeUnknown    the call may have happened: look it up before it is repeated
    │   │   └── CapacityError     no room now; ``retry_after_s`` says when to ask again
    │   └── PermanentError        never try again: the run goes to its failure step
    ├── UsageError                the caller's input is wrong (HTTP 4xx, exit status 2); names the field
    │   ├── InvalidInput          422: it does not fit a schema
    │   ├── NotFound              404
    │   ├── Conflict              409: the thing is not in a state that allows this
    │   ├── Gone                  410: ended; stop sending
    │   ├── Unauthorized          401
    │   ├── Forbidden             403
    │   └── TooMany               429: the caller is past a limit of their own; ``retry_after_s``
    ├── Overloaded                503: the installation is past a limit; ``retry_after_s``
    └── InfrastructureError       a store or a process of ours is not usable now
"""

from __future__ import annotations

import json
from typing import Any

#: An error is stored several times (run, task, history, attempts) and listed: what a step put into it has a limit.
MESSAGE_MAX = 4000
DETAIL_BYTES_MAX = 16 * 1024


def _cut(text: str) -> str:
    if len(text) <= MESSAGE_MAX:
        return text
    half = MESSAGE_MAX // 2
    return f"{text[:half]} [... {len(text) - 2 * half} characters left out ...] {text[-half:]}"


class TaskflowError(Exception):
    """Base of all errors. ``code`` is stable and machine-readable; ``advice`` tells the reader what to do."""

    code = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        advice: str | None = None,
        detail: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.detail = detail or {}
        if code is not None:
            self.code = code

    def as_dict(self) -> dict[str, Any]:
        """The error as it is stored on a run and shown by API and CLI: code, message, advice, detail.

        A message beyond ``MESSAGE_MAX`` characters loses its middle; a detail beyond ``DETAIL_BYTES_MAX`` becomes a
        text of its beginning. What JSON can't hold of the detail becomes text: a failure can always be stored.
        """
        found: dict[str, Any] = {"code": self.code, "message": _cut(self.message)}
        if self.advice:
            found["advice"] = _cut(self.advice)
        if self.detail:
            text = json.dumps(self.detail, default=str, skipkeys=True)
            if len(text.encode()) <= DETAIL_BYTES_MAX:
                found["detail"] = json.loads(text, parse_constant=str)
            else:
                found["detail"] = {"left_out": f"{len(text)} characters", "begins": text[:1000]}
        return found


class StepError(TaskflowError):
    """Raised by a step while it performs."""

    code = "step_error"


class TransientError(StepError):
    """Worth another attempt. ``retry_after_s`` (seconds), when the other side named it, replaces the backoff."""

    code = "transient"

    def __init__(self, message: str, *, retry_after_s: float | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.retry_after_s = retry_after_s


class OutcomeUnknown(TransientError):
    """The request was sent and no answer came: it may or may not have happened."""

    code = "outcome_unknown"


class CapacityError(TransientError):
    """There is no room at the moment."""

    code = "capacity"


class PermanentError(StepError):
    """Trying again cannot help."""

    code = "permanent"


class UsageError(TaskflowError):
    """The caller's input is wrong. ``fields`` maps a field name to what is wrong with it."""

    code = "invalid"
    http_status = 400

    def __init__(self, message: str, *, fields: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.fields = fields or {}


def unreadable_url(variable: str, form: str) -> UsageError:
    """What is said of a setting that is no URL of this ``form``. Not the URL itself: it may hold a password."""
    return UsageError(
        f"{variable} is no URL that can be used here", fields={variable: f"must be {form}"},
        advice="in a user's name or password, / is written %2F, ? is %3F, # is %23, @ is %40, % is %25",
    )  # fmt: skip


class InvalidInput(UsageError):
    """It does not fit the schema of what it is for. ``fields`` names each wrong field."""

    code = "invalid_input"
    http_status = 422


class NotFound(UsageError):
    """No such thing, or not yours."""

    code = "not_found"
    http_status = 404


class Conflict(UsageError):
    """The thing is not in a state that allows this."""

    code = "conflict"
    http_status = 409


class Gone(UsageError):
    """It ended; the sender stops."""

    code = "gone"
    http_status = 410


class Unauthorized(UsageError):
    """No valid token."""

    code = "unauthorized"
    http_status = 401


class Forbidden(UsageError):
    """The token is valid but not for this."""

    code = "forbidden"
    http_status = 403


class TooMany(UsageError):
    """The caller is past a limit of their own. Nothing was done; ``retry_after_s`` (seconds) says when to ask again."""

    code = "too_many"
    http_status = 429

    def __init__(self, message: str, *, retry_after_s: float, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.retry_after_s = retry_after_s


class Overloaded(TaskflowError):
    """The installation takes no more now, whoever asks. Nothing was done; ``retry_after_s`` (seconds) says when to ask."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.retry_after_s = retry_after_s


class InfrastructureError(TaskflowError):
    """A store or process of ours is not usable now; the message says which and what to do."""

    code = "infrastructure"
