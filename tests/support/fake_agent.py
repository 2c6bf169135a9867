"""The node side without a node: an in-process agent that keeps the wire contract.

Its callbacks go through the service with the tokens that came over the wire, as the HTTP routes do it.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from taskflow import __version__, protocol, signing
from taskflow.errors import Gone, UsageError
from taskflow.nodes.providers.base import NodeOrder
from taskflow.service import Service
from tests.support.virtual import Planner

#: What a session's end looks like when it went well.
SUCCESS: dict[str, Any] = {
    "outcome": "exited", "exit_code": 0, "commit": "c0ffee", "changed_files": ["hello.txt"], "pushed": True,
}  # fmt: skip

#: A callback: by whom, about which workspace or session, with what.
Tell = Callable[[Any, str, dict[str, Any]], Any]


@dataclass
class Plan:
    """How things go by themselves; None means never, until the test says so."""

    boot_s: float | None = 3.0
    workspace_s: float | None = 1.0
    workspace_error: dict[str, Any] | None = None
    session_s: float | None = 5.0
    outcome: dict[str, Any] = field(default_factory=lambda: dict(SUCCESS))
    beating: bool = True


class FakeAgent:
    """One node's agent: idempotent creates by id, fences, tombstones, and callbacks that are sent until answered."""

    def __init__(self, order: NodeOrder, service: Service, planner: Planner, plan: Plan) -> None:
        self.order = order
        # One address for each label: on this machine, as a local node's must be, and listened on by nobody. Of as many as
        # there are: among 80 labels two would share one of 50,000 ports once in sixteen runs.
        a, b, c, d = zlib.crc32(order.label.encode()).to_bytes(4, "big")
        self.address = f"http://127.{a}.{b}.{1 + c % 254}:{10_000 + d}"
        self.plan = plan
        self.alive = True
        self.workspaces: dict[str, dict[str, Any]] = {}
        self.tombstones: set[str] = set()
        self.sessions: dict[str, dict[str, Any]] = {}
        self.created: Counter[str] = Counter()
        self.started: Counter[str] = Counter()
        self.most_workspaces = 0
        #: The end of its own log.
        self.log = "it logged this\n"
        #: What each command wrote so far.
        self.output_bytes = 0
        #: The token that its reports are signed with, and how often it was renewed.
        self.node_key: tuple[str, int] = (order.agent["callback_token"], 0)
        self._service = service
        self._planner = planner
        #: The link is down, both ways; what is to be told waits.
        self.cut = False
        #: It reached nobody for its dead-man time: its sessions are ended, and it takes no new work until it does.
        self.cut_off = False
        self.reached_at = time.time()
        #: What its heartbeats say of its machine, beside or instead of the usual.
        self.measured: dict[str, float] = {}
        self._held: list[tuple[Tell, str, dict[str, Any], str]] = []

    # --- what the control plane asks

    def refusal(
        self, method: str, target: str, authorization: str | None, body: bytes, now: float
    ) -> tuple[int, dict[str, Any]] | None:
        """How a request is refused that is not signed with this agent's token; None when it is."""
        if target == protocol.AGENT_HEALTH:
            return None
        try:
            claim = signing.read(authorization)
            max_age_s = self.order.agent["signature_age_s"]
            token = self.order.agent["agent_token"]
            signing.check(claim, token, method=method, target=target, now=now, max_age_s=max_age_s)
            signing.check_body(claim, body)
        except signing.SignatureRefused as error:
            return 401, _error(error.code)
        return None

    def answer(self, method: str, path: str, query: Mapping[str, list[str]], body: Any) -> tuple[int, dict[str, Any]]:
        """One request: its status and body."""
        parts = path.strip("/").split("/")
        if path == protocol.AGENT_HEALTH:
            return 200, {"status": "alive"}
        if path == protocol.AGENT_LOG:
            return 200, {"log": self.log}
        workspace_id = parts[2]
        if method == "PUT" and self.cut_off:
            return 503, _error("cut_off")
        if len(parts) == 5:
            return self._session(method, workspace_id, parts[4], body)
        if method == "PUT":
            return self._create(workspace_id, protocol.load(protocol.WorkspaceCreateSchema, body))
        if method == "DELETE":
            return self._delete(workspace_id, int(query["fence"][0]))
        known = self.workspaces.get(workspace_id)
        return (404, _error("unknown")) if known is None else (200, self._state(workspace_id))

    def _create(self, workspace_id: str, order: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if workspace_id in self.tombstones:
            return 410, _error("deleted")
        content = {k: v for k, v in order.items() if k not in ("fence", "callback_token")}
        known = self.workspaces.get(workspace_id)
        if known is not None:
            if order["fence"] < known["fence"]:
                return 409, _error("fenced")
            if known["content"] != content:
                return 409, _error("conflict")
            known["fence"] = order["fence"]
            return 200, self._state(workspace_id)
        if len(self.workspaces) >= self.order.agent["slots"]:
            return 503, _error("capacity")
        self.created[workspace_id] += 1
        self.workspaces[workspace_id] = {
            "fence": order["fence"], "content": content, "token": order["callback_token"],
            "generation": 0, "status": "creating",
            "error": None,
        }  # fmt: skip
        self.most_workspaces = max(self.most_workspaces, len(self.workspaces))
        if self.plan.workspace_s is not None:
            self._planner.after(self.plan.workspace_s, lambda: self.finish_workspace(workspace_id))
        return 200, self._state(workspace_id)

    def _delete(self, workspace_id: str, fence: int) -> tuple[int, dict[str, Any]]:
        known = self.workspaces.get(workspace_id)
        if known is not None and fence < known["fence"]:
            return 409, _error("fenced")
        self.tombstones.add(workspace_id)
        if self.workspaces.pop(workspace_id, None) is not None:
            for session in self.sessions.values():
                if session["workspace_id"] == workspace_id and session["outcome"] is None:
                    session["outcome"] = outcome("stopped")
        return 200, {"workspace_id": workspace_id, "status": "deleted"}

    def _session(self, method: str, workspace_id: str, session_id: str, body: Any) -> tuple[int, dict[str, Any]]:
        if workspace_id in self.tombstones:
            return 410, _error("deleted")
        if workspace_id not in self.workspaces:
            return 404, _error("unknown")
        known = self.sessions.get(session_id)
        if method == "GET":
            return (404, _error("unknown")) if known is None else (200, self._session_state(session_id))
        order = protocol.load(protocol.SessionStartSchema, body)
        if order["fence"] < self.workspaces[workspace_id]["fence"]:
            return 409, _error("fenced")
        self.workspaces[workspace_id]["fence"] = order.pop("fence")
        if known is None:
            self.started[session_id] += 1
            self.sessions[session_id] = {"workspace_id": workspace_id, "order": order, "outcome": None}
            if self.plan.session_s is not None:
                self._planner.after(self.plan.session_s, lambda: self.finish_session(session_id))
        elif known["order"] != order:
            return 409, _error("conflict")
        return 200, self._session_state(session_id)

    def _state(self, workspace_id: str) -> dict[str, Any]:
        known = self.workspaces[workspace_id]
        return {
            "workspace_id": workspace_id, "status": known["status"], "error": known["error"],
            "base_commit": "ba5e" if known["status"] == "ready" else None,
        }  # fmt: skip

    def _session_state(self, session_id: str) -> dict[str, Any]:
        found = self.sessions[session_id]["outcome"]
        return {"session_id": session_id, "status": "running" if found is None else "ended", "outcome": found}

    # --- what it tells the control plane

    def boot(self) -> None:
        """Say ready, and go on beating."""
        if not self.alive:
            return
        self.watch()
        if self.plan.beating and not self.cut:
            caller = self._service.accounts.authenticate(self.node_key[0], "node")
            try:
                self.take_tokens(self._service.callbacks.node_heartbeat(caller, self.order.node_id, self.beat()))
            except Gone:
                return
            self.reached(time.time())
        self._planner.after(self.order.agent["heartbeat_interval_s"], self.boot)

    def take_tokens(self, answer: Mapping[str, Any]) -> None:
        """Use what a heartbeat's answer renews from now on."""
        renewed = answer["callback_token"]
        if renewed is not None:
            self.node_key = (renewed["token"], renewed["generation"])
        for workspace_id, token in answer["workspace_tokens"].items():
            if workspace_id in self.workspaces:
                self.workspaces[workspace_id] |= token

    def reached(self, at: float) -> None:
        """A heartbeat that was sent then is accepted."""
        self.reached_at, self.cut_off = at, False

    def watch(self) -> None:
        """The dead-man switch: on another machine sessions end when nobody is reached for long."""
        dead_man_s = self.order.agent.get("dead_man_s")
        silent_s = time.time() - self.reached_at
        if dead_man_s is None or silent_s < dead_man_s or self.cut_off:
            return
        self.cut_off = True
        said = {"code": "cut_off", "message": f"nobody was reached for {silent_s:.0f} s", "phase": None}
        for session_id, session in self.sessions.items():
            if session["outcome"] is None:
                self.finish_session(session_id, {"outcome": "lost", "error": said})

    def heal(self) -> None:
        """The link is up again."""
        self.cut = False
        held, self._held = self._held, []
        for one in held:
            self.send(*one)

    def beat(self) -> dict[str, Any]:
        """A heartbeat as it arrives."""
        sessions = [
            {
                "session_id": key, "workspace_id": one["workspace_id"], "status": "running",
                "output_bytes": self.output_bytes, "output_age_s": 0.0,
            }
            for key, one in self.sessions.items()
            if one["outcome"] is None
        ]  # fmt: skip
        return protocol.load(
            protocol.HeartbeatSchema,
            {
                "protocol_version": protocol.PROTOCOL_VERSION, "agent_version": __version__, "boot_id": "b1",
                "address": self.address, "ready": True,
                "cores": 2, "load1": 0.5, "workspaces": list(self.workspaces), "sessions": sessions,
                **self.measured,
            },
        )  # fmt: skip

    def finish_workspace(self, workspace_id: str, *, tell: bool = True) -> None:
        """The workspace is ready, or failed if that is the plan."""
        known = self.workspaces.get(workspace_id)
        if known is None or not self.alive:
            return
        known["error"] = self.plan.workspace_error
        known["status"] = "failed" if known["error"] else "ready"
        if tell:
            state = self._state(workspace_id)
            payload = protocol.load(protocol.WorkspaceOutcomeSchema, state)
            token = self.workspaces[workspace_id]["token"]
            self.send(self._tell_workspace, workspace_id, payload, token)

    def finish_session(self, session_id: str, said: Mapping[str, Any] | None = None, *, tell: bool = True) -> None:
        """The session ended by itself, as ``said`` or as the plan has it."""
        known = self.sessions.get(session_id)
        if known is None or known["outcome"] is not None or not self.alive:
            return
        branch = self.workspaces[known["workspace_id"]]["content"]["output_branch"]
        fields = {"output_branch": branch, **(said or self.plan.outcome)}
        known["outcome"] = payload = outcome(**fields)
        workspace_id = known["workspace_id"]
        if tell:
            token = self.workspaces[workspace_id]["token"]
            self.send(self._tell_session, session_id, payload, token)

    def _tell_workspace(self, caller: Any, workspace_id: str, payload: dict[str, Any]) -> Any:
        return self._service.callbacks.workspace_outcome(caller, workspace_id, payload)

    def _tell_session(self, caller: Any, session_id: str, payload: dict[str, Any]) -> Any:
        workspace_id = self.sessions[session_id]["workspace_id"]
        return self._service.callbacks.session_outcome(caller, workspace_id, session_id, payload)

    def send(self, tell: Tell, subject: str, payload: dict[str, Any], token: str) -> None:
        """Make a callback about ``subject`` with a workspace's token."""
        if self.cut:
            self._held.append((tell, subject, payload, token))
            return
        try:
            tell(self._service.accounts.authenticate(token, "workspace"), subject, payload)
        except UsageError:
            pass  # a final answer: the sender stops


#: A workspace's outcome, either way, as it arrives over the wire.
READY = {"status": "ready", "base_commit": "b", "error": None}
FAILED = {"status": "failed", "base_commit": None, "error": {"code": "git", "message": "no", "phase": "clone"}}


def outcome(outcome: str = "exited", **fields: Any) -> dict[str, Any]:
    """A session's outcome as it arrives over the wire."""
    return protocol.load(protocol.SessionOutcomeSchema, {"outcome": outcome, **fields})


def _error(code: str) -> dict[str, Any]:
    return {"code": code, "message": f"it is {code}"}
