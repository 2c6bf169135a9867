"""The real web application as one of two releases: what it starts carries the version of its pipelines."""

from __future__ import annotations

from typing import Any

from flask import Flask

import taskflow.bootstrap
from taskflow.bootstrap import App
from tests.chaos.released import released
from web import create_app as real_create_app

_bootstrap = taskflow.bootstrap.bootstrap


def _released(*arguments: Any, **options: Any) -> App:
    return released(_bootstrap(*arguments, **options))


def create_app() -> Flask:
    """``web.create_app`` over a service of this release."""
    taskflow.bootstrap.bootstrap = _released  # the door imports it when it builds
    return real_create_app()
