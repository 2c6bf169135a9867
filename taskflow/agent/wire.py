"""Posting to the control plane, signed, and what an answer means for the sender."""

from __future__ import annotations

import ipaddress
import json
import logging
import random
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from taskflow import signing
from taskflow.agent.clock import PlaneClock, boot_time

log = logging.getLogger(__name__)

_TIMEOUTS_S = (3.05, 10)  # to connect, between two bytes of the answer
_FINAL = frozenset((400, 401, 403, 404, 409, 410, 413))
_FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 15.0
#: A signature that was made with a clock this far off may have been refused for it.
_CLOCK_OFF_S = 3.0


@dataclass(frozen=True)
class Key:
    """What requests are signed with. ``id`` tells the control plane which token it is."""

    id: str
    token: str = field(repr=False)

    @classmethod
    def of_node(cls, node_id: str, generation: int, token: str) -> Key:
        """The node's own, for ready callbacks and heartbeats."""
        return cls(f"node:{node_id}:{generation}", token)

    @classmethod
    def of_workspace(cls, workspace_id: str, generation: int, token: str) -> Key:
        """A workspace's, for what is told of it and of its sessions."""
        return cls(f"workspace:{workspace_id}:{generation}", token)


@dataclass(frozen=True)
class Answer:
    """What came back. ``status`` is 0 when nothing did."""

    status: int
    body: dict[str, Any]

    @property
    def accepted(self) -> bool:
        """The control plane has it."""
        return 200 <= self.status < 300

    @property
    def final(self) -> bool:
        """It will never take it: stop sending."""
        return self.misfit or (self.status in _FINAL and self._is_its_own)

    @property
    def misfit(self) -> bool:
        """It will never take this message in this form: too long, or not as it wants it."""
        return self.status in (400, 413)

    @property
    def over(self) -> bool:
        """What it is about has ended, or is unknown there."""
        return self.status in (404, 410) and self._is_its_own

    @property
    def says(self) -> str:
        """A refusal's own words; empty when there are none."""
        return str(self.body["error"].get("message") or "") if self._is_its_own else ""

    @property
    def _is_its_own(self) -> bool:
        """Whether the control plane itself refuses: by the shape of its errors. A proxy's page ends nothing of ours."""
        return isinstance(self.body.get("error"), dict)


def wait_s(attempts: int) -> float:
    """Seconds before attempt number ``attempts`` + 1: doubling from 0.5 to 15, with jitter so that nodes spread out."""
    return min(LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(attempts, 10)) * random.uniform(0.75, 1.0)  # noqa: S311


class _Authorized(AuthBase):
    # As an auth object, because a plain header would be replaced by what ~/.netrc says of the host.
    def __init__(self, value: str) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._value
        return request


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Wire:
    """One connection to the control plane. Not thread-safe: each thread has its own.

    ``ca_file``: CA certificates that the control plane is trusted by, instead of the machine's.
    """

    def __init__(self, control_plane_url: str, clock: PlaneClock, ca_file: str | None = None) -> None:
        self._base = control_plane_url.rstrip("/")
        self._clock = clock
        self._verify: str | bool = ca_file or True
        self._http = requests.Session()
        self._http.trust_env = not _is_loopback(self._base)  # no proxy on the way to ourselves

    def post(self, path: str, key: Key, payload: str | dict[str, Any]) -> Answer:
        """Send, signed with ``key``. Never raises for what the network or the other side does.

        A request that was refused because this machine's clock is wrong is sent once more with the right time: a
        refusal is final for who sends, and no outcome shall be lost to a clock.
        """
        body = (payload if isinstance(payload, str) else json.dumps(payload)).encode()
        signed_at, sent_at = self._clock.now(), boot_time()
        answer = self._send(path, self._signed(path, key, body, signed_at), body)
        if answer.status == 401 and abs(self._clock.now() - signed_at - (boot_time() - sent_at)) > _CLOCK_OFF_S:
            answer = self._send(path, self._signed(path, key, body, self._clock.now()), body)
        return answer

    def introduce(self, path: str, token: str, payload: dict[str, Any]) -> Answer:
        """Send with ``token`` itself: for the first contact, before there is anything to sign with."""
        return self._send(path, f"Bearer {token}", json.dumps(payload).encode())

    @staticmethod
    def _signed(path: str, key: Key, body: bytes, now: float) -> str:
        return signing.sign(key.token, key.id, method="POST", target=path, body=body, now=now)

    def _send(self, path: str, authorization: str, body: bytes) -> Answer:
        try:
            response = self._http.post(
                self._base + path,
                data=body,
                headers={"Content-Type": "application/json"},
                auth=_Authorized(authorization),
                timeout=_TIMEOUTS_S,
                allow_redirects=False,
                verify=self._verify,
            )
        except (requests.RequestException, OSError) as error:  # OSError: a CA file that is not there
            log.info("no answer from the control plane: POST %s: %s", path, type(error).__name__)
            return Answer(0, {})
        try:
            answer = response.json()
        except ValueError:
            answer = {}
        body_said = answer if isinstance(answer, dict) else {}
        self._learn_time(response, body_said)
        if not response.ok:
            log.info("POST %s: %s %s", path, response.status_code, str(answer)[:300])
        return Answer(response.status_code, body_said)

    def _learn_time(self, response: requests.Response, body: dict[str, Any]) -> None:
        said = body.get("time")
        if isinstance(said, (int, float)) and not isinstance(said, bool):
            self._clock.learn(float(said))
            return
        try:
            dated = parsedate_to_datetime(response.headers["Date"]).timestamp()
        except (KeyError, ValueError, TypeError, OverflowError):
            return  # it says no time
        self._clock.learn_date(dated, doubted=response.status_code == 401)
