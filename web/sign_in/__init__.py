"""Signing browsers in and out: pages of their own, which need no script and nothing of another site."""

from __future__ import annotations

from flask import Flask

from taskflow.settings import Settings
from web.limits import SignInLimit
from web.sign_in import views


def register(app: Flask, settings: Settings) -> None:
    """Add the pages to ``app``."""
    app.extensions["taskflow.sign_in_limit"] = SignInLimit(settings.sign_in_rate)
    app.register_blueprint(views.blueprint)
