"""A real service on SQLite and an in-process Redis behind the real app, with the rows that callbacks need."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask.testing import FlaskClient
from marshmallow import Schema, fields
from sqlalchemy import Connection, func, select, update
from werkzeug.test import TestResponse

from taskflow import signing
from taskflow.certificates import AgentAuthority
from taskflow.clock import ManualClock
from taskflow.db.models import AgentSession, Node, Run, Task, Token, Workspace
from taskflow.db.nodes import NewNode, create_node_effect
from taskflow.db.runs import get_run
from taskflow.db.session import Database
from taskflow.db.tasks import transition
from taskflow.db.workspaces import reserve_workspace_effect, start_session_effect
from taskflow.engine.alarms import Ringer
from taskflow.engine.control import Alarm, Control
from taskflow.engine.outcomes import AwaitSignal, Done, Outcome
from taskflow.engine.pipeline import Pipeline, Step, StepContext
from taskflow.engine.store import RunRow
from taskflow.ids import RunId, TaskId, new_node_id, new_run_id, session_id_of, workspace_id_of
from taskflow.nodes.catalogue import load_catalogue
from taskflow.nodes.context import StepTools
from taskflow.service import Service
from taskflow.settings import Settings
from taskflow.vault import Vault, hash_token

SPEC = {"repository": "/srv/repo", "command": ["true"]}


class RecordingPublisher:
    """Remembers the alarms it was given."""

    def __init__(self) -> None:
        self.rung: list[str] = []

    def publish(self, alarm: Alarm) -> None:
        """Remember it."""
        self.rung.append(alarm.run_id)

    def backlog(self) -> int:
        """Nothing waits."""
        return 0


def _done(_context: StepContext) -> Outcome:
    return Done({})


PIPELINE = Pipeline(
    name="agent_task",
    version=1,
    steps=tuple(Step(name, _done) for name in ("node_selection", "workspace_ready", "running", "cleanup")),
    closing=frozenset({"cleanup"}),
    on_cancel=_done,
    on_failure=lambda _context, _error: Done({}),
)


class _Input(Schema):
    amount = fields.Integer(required=True, strict=True)
    note = fields.String(load_default="")


#: One of a user's own.
ORDER = Pipeline(
    name="order",
    version=1,
    steps=(Step("paid", lambda _context: AwaitSignal("paid"), limit_s=600.0), Step("cleanup", _done)),
    closing=frozenset({"cleanup"}),
    input_schema=_Input,
    signals=frozenset({"paid", "note"}),
)


@dataclass(frozen=True)
class Place:
    """Where a task runs, and the tokens of its callbacks."""

    node_id: str
    node_token: str
    workspace_id: str
    workspace_token: str
    session_id: str
    bootstrap_token: str


@dataclass
class World:
    """The app, its service, and two owners."""

    client: FlaskClient
    service: Service
    database: Database
    publisher: RecordingPublisher
    clock: ManualClock
    token: str
    other_token: str
    vault: Vault
    made: int = field(default=0)

    def call(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        token: str | None = "",
        headers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> TestResponse:
        """A request of the first owner, of the holder of ``token``, or (None) of nobody."""
        token = self.token if token == "" else token
        bearer = {} if token is None else {"Authorization": f"Bearer {token}"}
        if json is not None:
            kwargs["json"] = json
        return self.client.open(path, method=method, headers={**bearer, **(headers or {})}, **kwargs)

    def signed(
        self,
        scope: str,
        subject_id: str,
        path: str,
        body: Any,
        *,
        generation: int = 0,
        age_s: float = 0.0,
        **other: Any,
    ) -> TestResponse:
        """A request as an agent makes it, ``age_s`` seconds ago. ``other``: in what another one was signed, and ``key``."""
        content = json_module.dumps(body).encode()
        what: dict[str, Any] = {"method": "POST", "target": path, "body": content, "now": self.service.now() - age_s}
        what |= {"body" if name == "signed_body" else name: value for name, value in other.items() if name != "key"}
        key = other.get("key") or self.vault.derive_token(scope, subject_id, generation)
        authorization = signing.sign(key, f"{scope}:{subject_id}:{generation}", **what)
        headers = {"Authorization": authorization, "Content-Type": "application/json"}
        return self.client.post(path, data=content, headers=headers)

    def submit(self, **spec: Any) -> dict[str, Any]:
        """A task that was submitted over HTTP."""
        answer = self.call("POST", "/api/tasks", {**SPEC, **spec})
        assert answer.status_code in (201, 202), answer.text
        task: dict[str, Any] = answer.get_json()
        return task

    def start(self, **spec: Any) -> dict[str, Any]:
        """A run of the user's own pipeline that was started over HTTP."""
        answer = self.call("POST", "/api/runs", {"pipeline": ORDER.name, "input": {"amount": 5}, **spec})
        assert answer.status_code == 202, answer.text
        run: dict[str, Any] = answer.get_json()
        return run

    def end_run(self, run: Mapping[str, Any], error: Mapping[str, Any] | None = None) -> None:
        """End a run of the user's own pipeline, as its runner would."""
        ended = {"finished_at": self.clock.now(), "awaiting": None, "error": error, "result": {}}
        self.database.write(lambda tx: tx.execute(update(Run).where(Run.id == run["id"]).values(**ended)))

    def place(self, task: Mapping[str, Any]) -> Place:
        """Give the task a node, a workspace and a session, as its runner would."""
        self.made += 1
        node_id = new_node_id()
        workspace_id, session_id = workspace_id_of(RunId(task["run_id"])), session_id_of(RunId(task["run_id"]))
        node_token = self.vault.derive_token("node", node_id)
        workspace_token = self.vault.derive_token("workspace", workspace_id)
        bootstrap_token, now = f"bootstrap-token-{self.made}", self.clock.now()

        def work(tx: Connection) -> None:
            run = get_run(tx, task["run_id"])
            assert run is not None
            node_run = RunRow(
                id=new_run_id(), pipeline="node", version=1, subject_kind="node", subject_id=node_id, number=1,
                owner_id=run.owner_id, step="await_agent", rev=0, step_entered_at=now, created_at=now,
            )  # fmt: skip
            made = NewNode(
                node_id, node_run, f"node-{self.made}", "local", 2, hash_token(node_token),
                bootstrap_token_hash=hash_token(bootstrap_token),
            )  # fmt: skip
            create_node_effect(made, lambda tx: None, now=now)(tx)
            tx.execute(update(Node).where(Node.id == node_id).values(status="active"))
            reserve_workspace_effect(
                workspace_id=workspace_id, task_id=TaskId(task["id"]), run=run, node_id=node_id,
                callback_token_hash=hash_token(workspace_token), now=now,
            )(tx)  # fmt: skip
            start_session_effect(
                session_id=session_id, workspace_id=workspace_id, task_id=task["id"], run=run, now=now
            )(tx)
            tx.execute(update(Task).where(Task.id == task["id"]).values(node_id=node_id))

        self.database.write(work)
        return Place(node_id, node_token, workspace_id, workspace_token, session_id, bootstrap_token)

    def end(self, task: Mapping[str, Any], status: str, error: Mapping[str, Any] | None = None) -> None:
        """End the task and its run, as its runner would."""
        now = self.clock.now()

        def work(tx: Connection) -> None:
            for passed in ("delegated", "in_progress") if status == "completed" else ():
                transition(tx, task["id"], passed, actor="runner", now=now)
            transition(tx, task["id"], status, actor="runner", now=now, fields={"error": error} if error else None)
            tx.execute(update(Run).where(Run.id == task["run_id"]).values(finished_at=now, step="cleanup"))

        self.database.write(work)

    def destroy(self, place: Place) -> None:
        """Mark the node destroyed and its run finished, as its runner would."""
        now = self.clock.now()

        def work(tx: Connection) -> None:
            of_node = update(Node).where(Node.id == place.node_id).values(status="destroyed", destroyed_at=now)
            run_id = tx.execute(of_node.returning(Node.run_id)).scalar_one()
            tx.execute(update(Run).where(Run.id == run_id).values(finished_at=now))

        self.database.write(work)

    def rename(self, place: Place, subject_id: str) -> None:
        """Let the workspace's token be for ``subject_id``."""
        self.database.write(
            lambda tx: tx.execute(
                update(Token).where(Token.id == f"token-{place.workspace_id}").values(subject_id=subject_id)
            )
        )

    def row(self, table: type[Task | Run | Node | Workspace | AgentSession], row_id: str) -> Any:
        """A row as it is stored."""
        with self.database.read() as tx:
            return tx.execute(select(table.__table__).where(table.id == row_id)).one()

    def row_status(self, task_id: str) -> str:
        """The status of a task as it is stored."""
        return str(self.row(Task, task_id).status)

    def count(self, table: type[Task | Run]) -> int:
        """How many rows there are."""
        with self.database.read() as tx:
            return tx.execute(select(func.count()).select_from(table)).scalar_one()


def build_service(
    database: Database, control: Control, settings: Settings, clock: ManualClock
) -> tuple[Service, RecordingPublisher]:
    """The service over these stores, and what it rings."""
    publisher = RecordingPublisher()
    vault = Vault(settings.secret_key)
    tools = StepTools(
        database, {}, vault, settings, load_catalogue(settings), lambda: "i-1", AgentAuthority(vault, settings)
    )
    service = Service(
        database=database,
        control=control,
        ringer=Ringer(control, publisher),
        vault=vault,
        tools=tools,
        pipelines={PIPELINE.name: PIPELINE, ORDER.name: ORDER},
        settings=settings,
        clock=clock,
    )
    return service, publisher
