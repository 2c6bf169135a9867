"""The test kit: a whole installation in one process, on time that moves only when told.

The real runner, the real database code on SQLite, an in-process Redis; a pipeline of ten minutes is tested in
milliseconds. ``pip install 'taskflow-engine[testing]'`` brings what it needs. docs/how-to/own-pipelines.md shows it.
"""

try:
    import fakeredis  # noqa: F401
    import time_machine  # noqa: F401
except ImportError as error:
    raise ImportError("the test kit needs: pip install 'taskflow-engine[testing]'") from error

from taskflow.testing.crashes import crash_everywhere
from taskflow.testing.kit import Kit
from taskflow.testing.runs import KitRun
from taskflow.testing.virtual import Crash

__all__ = ["Crash", "Kit", "KitRun", "crash_everywhere"]
