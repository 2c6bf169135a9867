"""What the agent refuses, as typed errors: an HTTP status, a stable code and a message."""

from __future__ import annotations

from typing import Any


class Problem(Exception):
    """A request that is refused. ``status`` is the HTTP status, ``code`` is for programs, ``fields`` for bad input.

    ``detail``: what the caller may want to act on.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        fields: dict[str, Any] | None = None,
        detail: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.fields = fields
        self.detail = detail

    def as_dict(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.fields:
            body["fields"] = self.fields
        if self.detail:
            body["detail"] = self.detail
        return body


class StartRefused(Exception):
    """The agent can't start; the message says why and what to do."""


class Unwanted(StartRefused):
    """The control plane has no use for this machine."""


def unknown(what: str, identifier: str) -> Problem:
    """404: the agent has never heard of it."""
    return Problem(404, "not_found", f"no such {what}: {identifier}")


def deleted(workspace_id: str) -> Problem:
    """410: deleted, and it stays deleted."""
    return Problem(410, "gone", f"workspace {workspace_id} was deleted")


def fenced(workspace_id: str, fence: int, highest: int) -> Problem:
    """409: a newer writer has been here."""
    return Problem(
        409, "fenced", f"workspace {workspace_id} has seen fence {highest}; fence {fence} is from an earlier writer"
    )


def conflict(what: str, identifier: str) -> Problem:
    """409: the id is taken by other content."""
    return Problem(409, "conflict", f"{what} {identifier} exists with other content")
