"""The cloud's front door: a real HTTP server on a loopback port, in a thread."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from werkzeug.serving import make_server

from taskflow.clock import Clock
from tests.support.fake_cloud.apis import application
from tests.support.fake_cloud.ledger import Faults, Ledger

logging.getLogger("werkzeug").setLevel(logging.CRITICAL)


class FakeCloud:
    """Serves ``ledger`` between ``with`` and its end."""

    def __init__(self, clock: Clock, *, unique_names: bool = True) -> None:
        self.ledger = Ledger(clock, unique_names=unique_names)
        self._server = make_server("127.0.0.1", 0, application(self.ledger), threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, name="fake-cloud", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_port)

    @property
    def faults(self) -> Faults:
        """How it misbehaves."""
        return self.ledger.faults

    def __enter__(self) -> FakeCloud:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
