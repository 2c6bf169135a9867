"""What a person looks at first, and how the installation is set."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields

from web.api import shapes
from web.api.answers import RunSummarySchema, TaskSummarySchema
from web.api.routes import Routes
from web.auth import API, API_ADMIN, caller
from web.door import service

routes = Routes("overview", "What goes on, whether everything works, and how it is set")


def _counts(description: str) -> fields.Dict:
    return fields.Dict(keys=fields.String(), values=fields.Integer(), metadata={"description": description})


class HourSchema(Schema):
    """What ended within an hour, tasks and runs of pipelines of your own together."""

    from_ = fields.String(
        data_key="from", attribute="from", metadata={"format": "date-time", "description": "where it begins"}
    )
    completed = shapes.count("that completed")
    failed = shapes.count("that failed")
    cancelled = shapes.count("that were cancelled")
    mean_s = shapes.number("seconds that those took that completed, as a mean; null: none did", none=True)
    longest_s = shapes.number("the most that one of them took; null: none did", none=True)


class StandSchema(Schema):
    """How something stands."""

    state = shapes.text("ok, late, unknown; of a scheduled job: late, degraded or paused")
    says = shapes.text("the same for people")
    age_s = shapes.number("seconds since what it says; null: it speaks of no time", none=True)


class SweepStandSchema(StandSchema):
    """A scheduled job that is not well, or that somebody stopped."""

    name = shapes.text("its name")


class AlarmCountSchema(Schema):
    """Runs that are due to be looked at."""

    due = shapes.count("that are due")
    late = shapes.count("of those, for longer than a living worker leaves one")


class ClosedProviderSchema(Schema):
    """A provider of which nothing is bought now."""

    name = shapes.text("its name")
    blocked = shapes.flag("until a check of it succeeds")
    says = shapes.text("why")
    until = shapes.time("when something is bought there again; null: not by itself")


class InstallationSchema(Schema):
    """Whether what serves everybody works."""

    checks = shapes.pairs("each store: ok, or that it fails")
    worker = shapes.nested(StandSchema, "whether work is done")
    beat = shapes.nested(StandSchema, "whether scheduled jobs are started")
    sweeps = shapes.listed(SweepStandSchema, "scheduled jobs that are not well")
    alarms = shapes.nested(AlarmCountSchema, "what is due; null: Redis does not answer", none=True)
    providers = shapes.listed(ClosedProviderSchema, "providers of which nothing is bought now")


class OverviewSchema(Schema):
    """What goes on among your tasks and runs, what ended within a day, and whether everything works."""

    open = _counts("status -> how many tasks that have not ended")
    open_runs = _counts("the same of runs of pipelines of your own: running, waiting")
    since = shapes.time("where the first of the hours begins")
    hours = shapes.listed(HourSchema, "the last 24, the present one last")
    failed = shapes.listed(TaskSummarySchema, "the tasks that failed last within these hours, a few of them")
    failed_runs = shapes.listed(RunSummarySchema, "the same of runs of pipelines of your own")
    failed_count = shapes.count("how many of both failed within these hours")
    installation = shapes.nested(InstallationSchema, "whether everything works")


class SettingSchema(Schema):
    """A setting of the process that answers."""

    name = shapes.text("its environment variable")
    value = shapes.text("as people read it; of a secret only whether it is set; passwords in addresses are masked")
    unit = shapes.text("of the value")
    secret = shapes.flag("its value is never shown")
    default = shapes.text("what it is when nobody sets it")
    source = shapes.text("default, environment, or stack: taskflow up set it for its processes, and nobody for it")
    help = shapes.text("what it is for")


class SettingListSchema(Schema):
    """All settings."""

    settings = shapes.listed(SettingSchema, "the settings")


@routes.add("GET", "/api/overview", guard=API, answers={200: OverviewSchema})
def read_overview() -> dict[str, Any]:
    """Read the numbers of the first page: what is open, what ended within a day, what failed, whether everything works."""
    found = service().overview
    return {**found.numbers(caller()), "installation": found.installation()}


@routes.add("GET", "/api/settings", guard=API_ADMIN, answers={200: SettingListSchema})
def list_settings() -> dict[str, Any]:
    """List the settings in force in the process that answers, and where each came from. Secrets are never shown."""
    return {"settings": service().lookups.settings()}
