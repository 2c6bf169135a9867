"""Requests to a node agent: each has a timeout and an id that makes a repeat harmless; answers become typed errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests

from taskflow import protocol
from taskflow.errors import CapacityError, OutcomeUnknown, PermanentError, TransientError

_CONNECT_TIMEOUT_S = 3.05


class AgentClient:
    """One node's agent. ``token`` is its agent token; ``timeout_s`` bounds one request."""

    def __init__(self, address: str, token: str, timeout_s: float) -> None:
        self._address = address.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._timeout = (_CONNECT_TIMEOUT_S, timeout_s)

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

    def is_alive(self) -> bool:
        """Does the agent answer at all? One of the signs of a living node."""
        try:
            answer = requests.get(self._address + protocol.AGENT_HEALTH, timeout=self._timeout, allow_redirects=False)
            return answer.status_code == 200
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
        try:
            response = requests.request(
                method, self._address + path, json=payload, headers=self._headers, timeout=self._timeout,
                allow_redirects=False,  # the token is for this address, and for no other that it names
            )  # fmt: skip
        except requests.ConnectTimeout as error:
            raise TransientError("the node agent could not be reached", code="agent_unreachable") from error
        except requests.ReadTimeout as error:
            raise OutcomeUnknown("the node agent did not answer in time", code="agent_timeout") from error
        except requests.RequestException as error:
            # Refused, or broken off while it answered: either way the id makes it safe to ask again.
            raise OutcomeUnknown("the connection to the node agent failed", code="agent_unreachable") from error
        if response.status_code < 300:
            return _answer(response)
        if response.status_code < 400:
            raise OutcomeUnknown("what answered sends us elsewhere: it is not a node agent", code="agent_unreachable")
        raise _as_error(response)


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
    if response.status_code == 429 or response.status_code >= 500:
        return TransientError(message, code="agent_error")
    return PermanentError(message, code=f"agent_{code or 'refused'}", detail={"status": response.status_code})
