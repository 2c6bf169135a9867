"""``Service``: what the web and the command line call. Each group of verbs is a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from taskflow.agent_file import AgentFile
from taskflow.celery_settings import ALARM_QUEUE
from taskflow.clock import Clock
from taskflow.db.session import Database
from taskflow.engine.alarms import Ringer
from taskflow.engine.control import Control
from taskflow.engine.meter import SILENT, Meter
from taskflow.engine.pipeline import Pipeline
from taskflow.nodes.context import StepTools
from taskflow.service.accounts import Accounts
from taskflow.service.admission import RUNS, TASKS, Admission
from taskflow.service.audit import Audit
from taskflow.service.browsers import Browsers
from taskflow.service.callbacks import Callbacks
from taskflow.service.events import Events
from taskflow.service.explain import Explain
from taskflow.service.health import Health
from taskflow.service.history import History
from taskflow.service.line import Line
from taskflow.service.lookups import Lookups
from taskflow.service.metrics import Metrics
from taskflow.service.nodes import Nodes
from taskflow.service.overview import Overview
from taskflow.service.pipelines import Pipelines
from taskflow.service.providers import Providers
from taskflow.service.repeats import Repeats
from taskflow.service.run_explain import RunExplain
from taskflow.service.runs import Runs
from taskflow.service.signatures import Signatures
from taskflow.service.tasks import Tasks
from taskflow.service.timing import StoreClock
from taskflow.service.tokens import Tokens
from taskflow.service.usage import Usage
from taskflow.service.workers import Workers
from taskflow.settings import Settings
from taskflow.vault import Vault


class Service:
    """The verbs: ``accounts``, ``tokens``, ``browsers``, ``audit``, ``tasks``, ``repeats``, ``history``, ``line``,
    ``events``, ``nodes``, ``usage``, ``callbacks``, ``providers``, ``explain``, ``health``, ``workers``, ``metrics``;
    ``pipelines``, ``runs`` and ``run_explain`` for pipelines of one's own; ``overview`` and ``lookups`` for pages;
    ``signatures`` says who signed a request."""

    def __init__(
        self,
        *,
        database: Database,
        control: Control,
        ringer: Ringer,
        vault: Vault,
        pipelines: Mapping[str, Pipeline],
        settings: Settings,
        clock: Clock,
        tools: StepTools,
        meter: Meter = SILENT,
        depths: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        self.now = StoreClock(control, clock).now
        #: What HTTP requests are told to.
        self.meter = meter
        self.agent_file = AgentFile(settings.data_path.expanduser().absolute() / "agent").path
        self.accounts = Accounts(database, clock)
        self.tokens = Tokens(database, clock)
        self.browsers = Browsers(database, clock, settings)
        self.audit = Audit(database, clock)
        self.signatures = Signatures(self.accounts, vault, settings, self.now)
        admission = Admission(TASKS, settings, clock)
        self.tasks = Tasks(database, control, ringer, tools, pipelines, self.now, admission, meter)
        self.repeats = Repeats(database, vault, self.tasks, self.now)
        self.history = History(database)
        self.line = Line(database, settings, self.now)
        self.events = Events(database)
        self.nodes = Nodes(database, ringer, tools, self.now)
        self.usage = Usage(database, self.now)
        self.callbacks = Callbacks(database, ringer, tools, self.now, meter)
        self.providers = Providers(database, tools, self.now)
        self.explain = Explain(database, control, pipelines, tools, self.now)
        self.pipelines = Pipelines(pipelines)
        admission = Admission(RUNS, settings, clock)
        self.runs = Runs(database, control, ringer, vault, pipelines, settings, self.now, admission, meter)
        self.run_explain = RunExplain(database, control, pipelines, settings, self.now)
        self.metrics = Metrics(
            database, control, settings, vault, clock, depths or (lambda: {ALARM_QUEUE: ringer.backlog()})
        )
        self.workers = Workers(control, self.now)
        self.health = Health(
            database, control, settings, self.now, self.providers, self.workers, ringer.backlog, pipelines
        )
        self.overview = Overview(database, control, settings, self.now, self.health)
        self.lookups = Lookups(database, pipelines, settings)
