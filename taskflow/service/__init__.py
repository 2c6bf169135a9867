"""The verbs of the product. The one door for the web and the command line; every query carries the caller's owner."""

from taskflow.db.listing import EVERY_TASK, TaskFilter
from taskflow.db.own_runs import RunFilter
from taskflow.db.status import RUN_STATUSES, STATUSES
from taskflow.engine.meter import SILENT, Meter
from taskflow.service.accounts import Caller
from taskflow.service.core import Service
from taskflow.service.repeats import Verb

__all__ = [
    "EVERY_TASK",
    "RUN_STATUSES",
    "SILENT",
    "STATUSES",
    "Caller",
    "Meter",
    "RunFilter",
    "Service",
    "TaskFilter",
    "Verb",
]
