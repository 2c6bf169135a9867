"""Requests to a node agent: each has a timeout and an id that makes a repeat harmless; answers become typed errors.

They are signed, so the agent's token never travels. Over https the agent is checked by the installation's own CA and by
its node's name, whatever its address is.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from taskflow import protocol, signing
from taskflow.engine.meter import SILENT, Meter
from taskflow.errors import CapacityError, OutcomeUnknown, PermanentError, TransientError

_CONNECT_TIMEOUT_S = 3.05
#: Which token a request is signed with: an agent knows only one.
_KEY_ID = "agent"


@dataclass(frozen=True)
class AgentTrust:
    """What an agent's certificate has to be: issued by a CA of ``context``, for ``name``, which nobody resolves."""

    context: ssl.SSLContext
    name: str


class _Signed(AuthBase):
    """Signs what is sent, byte for byte. As an auth object, because a plain header may be replaced on the way."""

    def __init__(self, token: str, now: float) -> None:
        self._token = token
        self._now = now

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        body = request.body or b""
        request.headers["Authorization"] = signing.sign(
            self._token, _KEY_ID, method=str(request.method), target=request.path_url,
            body=body.encode() if isinstance(body, str) else body, now=self._now,
        )  # fmt: skip
        return request


class _TrustedAdapter(HTTPAdapter):
    """Connections to one agent. No other CA counts, neither the system's nor one that the environment names."""

    def __init__(self, trust: AgentTrust) -> None:
        self._trust = trust
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """The pool, with our own context and name."""
        super().init_poolmanager(
            *args, **kwargs, ssl_context=self._trust.context, server_hostname=self._trust.name,
            assert_hostname=self._trust.name,
        )  # fmt: skip

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing is added: it would put the public CAs into our context."""
        conn.cert_reqs = "CERT_REQUIRED"


class AgentClient:
    """One node's agent. ``token`` is its agent token; ``now`` is the engine's time, which signatures go by;
    ``timeout_s`` bounds one request. ``trust``: what its certificate has to be, None for an address without TLS.
    ``meter`` is told of each request.
    """

    def __init__(
        self,
        address: str,
        token: str,
        timeout_s: float,
        *,
        now: float,
        trust: AgentTrust | None = None,
        meter: Meter = SILENT,
    ) -> None:
        self._address = address.rstrip("/")
        self._auth = _Signed(token, now)
        self._timeout = (_CONNECT_TIMEOUT_S, timeout_s)
        self._trust = trust
        self._meter = meter

    def put_workspace(self, workspace_id: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Create a workspace (or hear that it exists). Answers ``WorkspaceStateSchema``."""
        return self._call("PUT", protocol.route(protocol.AGENT_WORKSPACE, workspace_id=workspace_id), payload)

    def get_workspace(self, workspace_id: str) -> dict[str, Any] | None:
        """The workspace's state, None when the agent does not know it."""
        return self._look("GET", protocol.route(protocol.AGENT_WORKSPACE, workspace_id=workspace_id))

    def delete_workspace(self, workspace_id: str, fence: int) -> None:
        """Stop what runs in it and delete it; the agent remembers the id and never creates it again."""
        path = protocol.route(protocol.AGENT_WORKSPACE, workspace_id=workspace_id)
        self._look("DELETE", f"{path}?fence={fence}")

    def put_session(self, workspace_id: str, session_id: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Start the command (or hear that it was started). Answers ``SessionStateSchema``."""
        path = protocol.route(protocol.AGENT_SESSION, workspace_id=workspace_id, session_id=session_id)
        return self._call("PUT", path, payload)

    def get_session(self, workspace_id: str, session_id: str) -> dict[str, Any] | None:
        """The session's state, None when the agent does not know it."""
        return self._look(
            "GET", protocol.route(protocol.AGENT_SESSION, workspace_id=workspace_id, session_id=session_id)
        )

    def get_log(self) -> dict[str, Any]:
        """The end of what it logged. Answers ``AgentLogSchema``."""
        return self._call("GET", protocol.AGENT_LOG, None)

    def is_alive(self) -> bool:
        """Does the agent answer at all? One of the signs of a living node."""
        try:
            return self._send("GET", protocol.AGENT_HEALTH).status_code == 200
        except requests.RequestException:
            return False

    def _look(self, method: str, path: str) -> dict[str, Any] | None:
        try:
            return self._call(method, path, None)
        except PermanentError as error:
            if error.detail.get("status") in (404, 410):
                return None
            raise

    def _call(self, method: str, path: str, payload: Mapping[str, Any] | None) -> dict[str, Any]:
        became, ended = "error", self._meter.call_begins(method.lower())
        try:
            response = self._ask(method, path, payload)
            became = str(response.status_code)
        finally:
            ended(became)
        if response.status_code < 300:
            return _answer(response)
        if response.status_code < 400:
            raise OutcomeUnknown("what answered sends us elsewhere: it is not a node agent", code="agent_unreachable")
        raise _as_error(response)

    def _ask(self, method: str, path: str, payload: Mapping[str, Any] | None) -> requests.Response:
        headers = dict(self._meter.call_headers())
        try:
            return self._send(method, path, json=payload, auth=self._auth, headers=headers)
        except requests.ConnectTimeout as error:
            raise TransientError("the node agent could not be reached", code="agent_unreachable") from error
        except requests.ReadTimeout as error:
            raise OutcomeUnknown("the node agent did not answer in time", code="agent_timeout") from error
        except requests.exceptions.SSLError as error:
            why = getattr(error.args[0], "reason", None) if error.args else None
            raise OutcomeUnknown(
                f"there is no trusted connection to the node agent: {why or error}", code="agent_untrusted"
            ) from error
        except requests.RequestException as error:
            # Refused, or broken off while it answered: either way the id makes it safe to ask again.
            raise OutcomeUnknown("the connection to the node agent failed", code="agent_unreachable") from error

    def _send(self, method: str, path: str, **request: Any) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False  # no proxy, no ~/.netrc and no further CA between us and a node of ours
            if self._trust is not None:
                session.mount("https://", _TrustedAdapter(self._trust))
            return session.request(
                method, self._address + path, timeout=self._timeout,
                allow_redirects=False,  # the request is for this address, and for no other that it names
                **request,
            )  # fmt: skip


def _answer(response: requests.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        # Something else listens there now, or a proxy answers for it.
        raise OutcomeUnknown("what answered is not a node agent", code="agent_unreachable")
    return answer


def _as_error(response: requests.Response) -> Exception:
    try:
        body = response.json()
        said, code = str(body.get("message", "")), str(body.get("code", ""))
    except (ValueError, AttributeError):
        said, code = "", ""
    message = f"the node agent answered {response.status_code}: {said or response.reason}"
    if code == "capacity":
        return CapacityError(message, code="node_full")
    if response.status_code == 401 and code == "clock":
        # Its clock is learnt anew with each heartbeat, and this signature may have been on its way for long.
        return TransientError(message, code="agent_clock")
    if response.status_code == 429 or response.status_code >= 500:
        return TransientError(message, code="agent_error")
    return PermanentError(message, code=f"agent_{code or 'refused'}", detail={"status": response.status_code})
