"""The scheduled jobs. They are everybody's, so a token sees how they stand; who runs the installation stops them."""

from __future__ import annotations

from typing import Any

from web.api import reports
from web.api.routes import Routes
from web.auth import API, caller
from web.door import service

routes = Routes("sweeps", "The scheduled jobs of the installation")


@routes.add("GET", "/api/sweeps", guard=API, answers={200: reports.SweepListSchema})
def list_sweeps() -> dict[str, Any]:
    """List the scheduled jobs, when each last succeeded, at how many things it fails, and promises of yours among them.

    What it fails at may be another owner's: `taskflow sweeps` names it to who runs the installation.
    """
    return {"sweeps": service().health.sweeps_in_numbers(), "promises": service().history.promises(caller())}
