"""The Celery settings in force, for tools that expect a ``celeryconfig``; reasons: ``taskflow/celery_settings.py``."""

from taskflow.celery_settings import celery_settings
from taskflow.settings import Settings

globals().update(celery_settings(Settings.from_env()))
