"""The real worker as one of two releases: ``celery -A tests.chaos.worker worker``."""

from __future__ import annotations

import taskflow.celery as real
from taskflow.bootstrap import App
from tests.chaos.released import released

app = real.app
_get = real.process.get


def _released_app() -> App:
    return released(_get())


real.process.get = _released_app  # type: ignore[method-assign]
