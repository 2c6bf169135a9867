"""The one door from HTTP to the product: the service, built when it is first needed."""

from __future__ import annotations

import atexit
import os
import threading
from typing import Any

from flask import current_app

from taskflow.errors import InfrastructureError, UsageError
from taskflow.service import SILENT, Meter, Service
from taskflow.settings import Settings


class Door:
    """Holds the service that was given, or builds one per process.

    A connection must not cross a fork, so the process id is part of what is remembered: an app that was loaded before
    the server forked its workers gives each of them a service of its own.
    """

    def __init__(self, service: Service | None, settings: Settings | None) -> None:
        self._given = service
        self._settings = settings
        self._lock = threading.Lock()
        self._built: tuple[int, Any] | None = None
        self._meter_lock = threading.Lock()
        self._meter: tuple[int, Meter] | None = None

    def service(self) -> Service:
        """The service. Raises ``InfrastructureError`` when this process can't be set up."""
        if self._given is not None:
            return self._given
        with self._lock:
            if self._built is None or self._built[0] != os.getpid():
                self._built = (os.getpid(), self._build())
            service: Service = self._built[1].service
            return service

    def meter(self) -> Meter:
        """What this process' requests are told to; made without a store, for the routes that need none.

        Raises ``InfrastructureError`` when it can't be made as the settings say.
        """
        if self._given is not None:
            return getattr(self._given, "meter", SILENT)
        with self._meter_lock:
            if self._meter is None or self._meter[0] != os.getpid():
                from taskflow.bootstrap import make_meter

                self._meter = (os.getpid(), make_meter(self._settings or Settings.from_env(), "web"))
            return self._meter[1]

    def _build(self) -> Any:
        from taskflow.bootstrap import bootstrap  # here, so that an app over a given service needs no store

        try:
            built = bootstrap(self._settings or Settings.from_env(), meter=self.meter())
        except UsageError as error:  # ours, not the caller's: never a 4xx
            raise InfrastructureError(error.message, code="settings", advice=error.advice) from error
        atexit.register(built.close)
        return built


def service() -> Service:
    """The service of the app that handles this request."""
    door: Door = current_app.extensions["taskflow"]
    return door.service()
