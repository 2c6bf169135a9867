"""The verbs of the product. The one door for the web and the command line; every query carries the caller's owner."""

from taskflow.engine.meter import SILENT, Meter
from taskflow.service.accounts import Caller
from taskflow.service.core import Service

__all__ = ["SILENT", "Caller", "Meter", "Service"]
