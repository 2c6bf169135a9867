"""``Service``: what the web and the command line call. Each group of verbs is a file of its own."""

from __future__ import annotations

from collections.abc import Mapping

from taskflow.agent_file import AgentFile
from taskflow.clock import Clock
from taskflow.db.session import Database
from taskflow.engine.alarms import Ringer
from taskflow.engine.control import Control
from taskflow.engine.pipeline import Pipeline
from taskflow.nodes.context import StepTools
from taskflow.service.accounts import Accounts
from taskflow.service.admission import Admission
from taskflow.service.callbacks import Callbacks
from taskflow.service.events import Events
from taskflow.service.explain import Explain
from taskflow.service.health import Health
from taskflow.service.lookups import Lookups
from taskflow.service.nodes import Nodes
from taskflow.service.overview import Overview
from taskflow.service.providers import Providers
from taskflow.service.signatures import Signatures
from taskflow.service.tasks import Tasks
from taskflow.service.timing import StoreClock
from taskflow.service.usage import Usage
from taskflow.settings import Settings
from taskflow.vault import Vault


class Service:
    """The verbs: ``accounts``, ``tasks``, ``events``, ``nodes``, ``usage``, ``callbacks``, ``providers``, ``explain``,
    ``health``, ``overview``, ``lookups``; ``signatures`` says who signed a request."""

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
    ) -> None:
        self.now = StoreClock(control, clock).now
        self.agent_file = AgentFile(settings.data_path.expanduser().absolute() / "agent").path
        self.accounts = Accounts(database, clock)
        self.signatures = Signatures(self.accounts, vault, settings, self.now)
        self.tasks = Tasks(database, control, ringer, tools, pipelines, self.now, Admission(settings, clock))
        self.events = Events(database)
        self.nodes = Nodes(database, ringer, tools, self.now)
        self.usage = Usage(database, self.now)
        self.callbacks = Callbacks(database, ringer, tools, self.now)
        self.providers = Providers(database, tools, self.now)
        self.explain = Explain(database, control, pipelines, tools, self.now)
        self.health = Health(database, control, settings, self.now, self.providers)
        self.overview = Overview(database, control, settings, self.now, self.health)
        self.lookups = Lookups(database, pipelines, settings, self.now)
