"""The dashboard: pages for people, drawn by the server, kept up to date by a little JavaScript of ours."""

from __future__ import annotations

from flask import Flask

from web.dashboard import frame, nodes, operations, overview, runs, tasks, usage

__all__ = ["register"]


def register(app: Flask) -> None:
    """Add the pages and what they load."""
    frame.register(app, overview.pages, tasks.pages, runs.pages, nodes.pages, operations.pages, usage.pages)
