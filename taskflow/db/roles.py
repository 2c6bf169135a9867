"""What a user's token may do: each role may all that the one before it may."""

from __future__ import annotations

VIEWER, OPERATOR, ADMIN = "viewer", "operator", "admin"
#: From the least to the most.
ROLES = (VIEWER, OPERATOR, ADMIN)


def includes(role: str, least: str) -> bool:
    """Whether ``role`` may what ``least`` may."""
    return role in ROLES and ROLES.index(role) >= ROLES.index(least)
