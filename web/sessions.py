"""What a browser's session needs beside the caller."""

from __future__ import annotations


def csrf_token() -> str:
    """What a request that writes has to carry in ``X-CSRF-Token``; '' for a caller who shows a token."""
    return ""
