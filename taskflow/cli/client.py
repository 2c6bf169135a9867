"""The client of the command line: one method per route; a repeat does no harm anywhere."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from taskflow.cli.transport import Frames, Transport

LOG_PAGE = 50
PAGE = 200


class Api(Transport):
    """What a server of taskflow answers."""

    # --- tasks

    def submit(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Submit a task. The key makes a repeat answer with the same task."""
        return self._call("submitting the task", "POST", "/api/tasks", body=spec, headers=_once())

    def task(self, task_id: str) -> dict[str, Any]:
        """A task."""
        return self._call(f"looking for the {_kind(task_id)}", "GET", _task(task_id))

    def tasks(
        self, *, limit: int = 50, cursor: str | None = None, wanted: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A page of tasks: ``{"tasks", "next_cursor"}``. ``wanted``: the query that says which."""
        return self._call("listing tasks", "GET", "/api/tasks", query={**_page(limit, cursor), **(wanted or {})})

    def run_draft(self, task_id: str) -> dict[str, Any]:
        """Start a draft."""
        return self._call("starting the draft", "POST", f"{_task(task_id)}/run", body={}, headers=_once())

    def cancel(self, task_id: str, reason: str | None = None) -> dict[str, Any]:
        """Ask for cancellation."""
        body = {"reason": reason}
        return self._call(
            f"cancelling the {_kind(task_id)}", "POST", f"{_task(task_id)}/cancel", body=body, headers=_once()
        )

    def rerun(self, task_id: str) -> dict[str, Any]:
        """Run a failed or cancelled task again."""
        return self._call(
            f"running the {_kind(task_id)} again", "POST", f"{_task(task_id)}/rerun", body={}, headers=_once()
        )

    def do_many(self, verb: str, task_ids: Sequence[str], reason: str | None = None) -> dict[str, Any]:
        """Cancel or rerun up to 100 tasks: ``{"outcomes"}``, one for each."""
        body = {"ids": list(task_ids), **({"reason": reason} if verb == "cancel" else {})}
        what = {"cancel": "cancelling the tasks", "rerun": "running the tasks again"}[verb]
        return self._call(what, "POST", f"/api/tasks/{verb}", body=body, headers=_once())

    def events(self, thing_id: str, after: int = 0, *, limit: int | None = None) -> dict[str, Any]:
        """Events of a task, run or node with a ``seq`` greater than ``after``: ``{"events", "next"}``."""
        query = {"after": after, **({"limit": limit} if limit else {})}
        return self._call("reading events", "GET", _events(thing_id), query=query)

    def logs(self, task_id: str, after: int = 0, run_id: str | None = None) -> dict[str, Any]:
        """Log chunks with a number greater than ``after``: ``{"chunks", "next", "ended"}``; data is base64."""
        query: dict[str, Any] = {"after": after, "limit": LOG_PAGE}
        if run_id:
            query["run_id"] = run_id
        return self._call("reading the log", "GET", f"{_task(task_id)}/logs", query=query)

    def why(self, task_id: str) -> dict[str, Any]:
        """What the task waits for."""
        return self._call(f"asking what the {_kind(task_id)} waits for", "GET", f"{_task(task_id)}/why")

    def task_runs(self, task_id: str, *, limit: int = 20, cursor: str | None = None) -> dict[str, Any]:
        """A page of the runs of a task, the last one first: ``{"runs", "next_cursor"}``."""
        return self._call("listing the runs", "GET", f"{_task(task_id)}/runs", query=_page(limit, cursor))

    def errors(
        self, task_id: str | None, wanted: Mapping[str, Any], *, limit: int = 50, cursor: str | None = None
    ) -> dict[str, Any]:
        """A page of failed attempts, of a task or of everything: ``{"errors", "next_cursor"}``."""
        path = f"{_task(task_id)}/errors" if task_id else "/api/errors"
        return self._call("listing failed attempts", "GET", path, query={**_page(limit, cursor), **wanted})

    def queue(self, *, limit: int = 50, cursor: str | None = None) -> dict[str, Any]:
        """A page of who waits for capacity: ``{"waiting", "count", "next_cursor"}``."""
        return self._call("listing who waits", "GET", "/api/queue", query=_page(limit, cursor))

    # --- runs of pipelines of one's own

    def pipelines(self) -> list[dict[str, Any]]:
        """The pipelines that runs can be started of."""
        found: list[dict[str, Any]] = self._call("listing pipelines", "GET", "/api/pipelines")["pipelines"]
        return found

    def start_run(self, spec: Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
        """Start a run. The key (default: one of its own) makes a repeat answer with the same run."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return self._call("starting the run", "POST", "/api/runs", body=spec, headers=headers)

    def runs(
        self, *, limit: int = 50, cursor: str | None = None, wanted: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A page of runs: ``{"runs", "next_cursor"}``. ``wanted``: the query that says which."""
        return self._call("listing runs", "GET", "/api/runs", query={**_page(limit, cursor), **(wanted or {})})

    def signal(self, run_id: str, name: str, data: Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
        """Send a signal. The same again changes nothing; ``key`` tells apart several of one name."""
        path = f"{_task(run_id)}/signals/{quote(name, safe='')}"
        return self._call(
            "sending the signal", "POST", path, body=data, headers={"Idempotency-Key": key} if key else None
        )

    # --- everything

    def ready(self) -> dict[str, Any]:
        """How the server is: ``{"ready", "checks"}``. A server that is not ready is a ``CommandError`` whose ``detail``
        has the checks."""
        # Once: a server that is not ready says so with a status that would be asked for again.
        return self._once("asking how the server is", "GET", "/readyz")

    def feed(self, after: str | None = None) -> dict[str, Any]:
        """Events of everything after a cursor, or from ``now`` on: ``{"events", "next"}``."""
        query = {"after": after} if after else None
        return self._call("reading events", "GET", "/api/events", query=query)

    def stream(self, thing_id: str | None, after: str) -> Frames | None:
        """The events after a place as they come, of a task, run or node, or of everything: place and event, the event
        None where only the place is said. It ends when the server ends it. None: there is no room for a stream, or
        something between here and the server knows none; pages are served all the time.

        The connection is made before this returns. Raises ``NoServer``, also while it is read.
        """
        path = "/api/events" if thing_id is None else _events(thing_id)
        return self._stream("reading events", path, {"after": after})

    # --- nodes

    def nodes(self, *, destroyed: bool = False) -> list[dict[str, Any]]:
        """The nodes, newest first."""
        return self._pages("listing nodes", "/api/nodes", "nodes", **({"destroyed": "true"} if destroyed else {}))

    def add_node(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Order a node. The key makes a repeat answer with the same node."""
        return self._call("ordering the node", "POST", "/api/nodes", body=spec, headers=_once())

    def drain_node(self, node_id: str, reason: str | None = None) -> dict[str, Any]:
        """Ask a node to drain and go."""
        return self._call("draining the node", "POST", f"{_node(node_id)}/drain", body={"reason": reason})

    def destroy_node(self, node_id: str, reason: str | None = None, *, force: bool = False) -> dict[str, Any]:
        """Let a node go; with ``force`` at once."""
        body = {"reason": reason, **({"force": True} if force else {})}
        return self._call("destroying the node", "POST", f"{_node(node_id)}/destroy", body=body)

    def node(self, node_id: str) -> dict[str, Any]:
        """One node."""
        return self._call("reading the node", "GET", _node(node_id))

    def providers(self) -> list[dict[str, Any]]:
        """The providers with their offers."""
        found: list[dict[str, Any]] = self._call("listing providers", "GET", "/api/providers")["providers"]
        return found

    def check_providers(self, name: str | None = None) -> list[dict[str, Any]]:
        """Ask for a check of the credentials of each provider (or one): those providers, whose ``check`` is ``pending``
        until a worker did it."""
        body = {"provider": name} if name else {}
        found: list[dict[str, Any]] = self._call(
            "asking for the check", "POST", "/api/providers/check", body=body, headers=_once()
        )["providers"]
        return found

    def usage(self, month: str | None = None) -> dict[str, Any]:
        """What was used in a month."""
        return self._call("reading the usage", "GET", "/api/usage", query={"month": month} if month else None)

    # --- who asks

    def whoami(self) -> dict[str, Any]:
        """Whose token this is."""
        return self._call("asking whose token this is", "GET", "/api/whoami")

    def sign_in_link(self) -> dict[str, Any]:
        """A link that signs a browser in: ``{"path", "expires_at"}``."""
        return self._call("asking for a sign-in link", "POST", "/api/sign-in-links", body={})

    def tokens(self) -> list[dict[str, Any]]:
        """The tokens of the owner, the oldest first, without the tokens themselves."""
        return self._pages("listing tokens", "/api/tokens", "tokens")

    def create_token(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """A further token of the owner, which is shown this once."""
        # Once: a repeat would make another one, and nobody would know of the first.
        return self._once("making the token", "POST", "/api/tokens", body=spec)

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token of the owner."""
        # Once: where the answer was lost, a repeat would say that there is none.
        self._once("revoking the token", "DELETE", f"/api/tokens/{quote(token_id, safe='')}")

    def audit(self, *, limit: int = 50, cursor: str | None = None) -> dict[str, Any]:
        """A page of the audit trail, newest first: ``{"lines", "next_cursor"}``."""
        return self._call("reading the audit trail", "GET", "/api/audit", query=_page(limit, cursor))

    def sweeps(self) -> dict[str, Any]:
        """``sweeps``, the scheduled jobs, whose ``failing`` is at how many things; ``promises``, those of the caller's
        owner that fail."""
        return self._call("listing the scheduled jobs", "GET", "/api/sweeps")

    # --- how

    def _pages(self, what: str, path: str, rows: str, **query: Any) -> list[dict[str, Any]]:
        """All ``rows`` of a list that comes in pages."""
        asked: dict[str, Any] = {"limit": PAGE, **query}
        page = self._call(what, "GET", path, query=asked)
        found: list[dict[str, Any]] = page[rows]
        while cursor := page["next_cursor"]:
            page = self._call(what, "GET", path, query={**asked, "cursor": cursor})
            found += page[rows]
        return found


def is_run(thing_id: str) -> bool:
    """Whether this is the id of a run of a pipeline of one's own, and not of a task."""
    return thing_id.startswith("run-")


def _once() -> dict[str, str]:
    """The header by which a server sees that a request is a repeat of one whose answer was lost."""
    return {"Idempotency-Key": uuid.uuid4().hex}


def _page(limit: int, cursor: str | None) -> dict[str, Any]:
    return {"limit": limit, **({"cursor": cursor} if cursor else {})}


def _kind(thing_id: str) -> str:
    return "run" if is_run(thing_id) else "task"


def _task(task_id: str) -> str:
    """The path of a task, or of a run: an id says what it names."""
    return f"/api/{_kind(task_id)}s/{quote(task_id, safe='')}"


def _node(node_id: str) -> str:
    return f"/api/nodes/{quote(node_id, safe='')}"


def _events(thing_id: str) -> str:
    """The path of the events of a task, a run or a node."""
    return f"{_node(thing_id) if thing_id.startswith('node-') else _task(thing_id)}/events"
