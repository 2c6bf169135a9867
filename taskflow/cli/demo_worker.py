"""The worker of ``taskflow doctor --demonstrate``: the product's own Celery app, which knows one toy pipeline more.

``celery -A taskflow.cli.demo_worker worker``
"""

from __future__ import annotations

import taskflow.celery as real
from taskflow.bootstrap import App
from taskflow.cli.demo_pipeline import PIPELINE


def _wired() -> App:
    app = _get()
    app.pipelines.setdefault(PIPELINE.name, PIPELINE)
    return app


_get = real.process.get
real.process.get = _wired  # type: ignore[method-assign]
app = real.app
