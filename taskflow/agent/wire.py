"""Posting to the control plane, and what an answer means for the sender."""

from __future__ import annotations

import ipaddress
import json
import logging
import random
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

log = logging.getLogger(__name__)

_TIMEOUTS_S = (3.05, 10)  # to connect, between two bytes of the answer
_FINAL = frozenset((400, 401, 403, 404, 409, 410, 413))
_FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 15.0


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
        return self.status in _FINAL

    @property
    def misfit(self) -> bool:
        """It will never take this message in this form: too long, or not as it wants it."""
        return self.status in (400, 413)

    @property
    def over(self) -> bool:
        """What it is about has ended, or is unknown there."""
        return self.status in (404, 410)


def wait_s(attempts: int) -> float:
    """Seconds before attempt number ``attempts`` + 1: doubling from 0.5 to 15, with jitter so that nodes spread out."""
    return min(LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(attempts, 10)) * random.uniform(0.75, 1.0)  # noqa: S311


class _Bearer(AuthBase):
    # As an auth object, because a plain header would be replaced by what ~/.netrc says of the host.
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Wire:
    """One connection to the control plane. Not thread-safe: each thread has its own."""

    def __init__(self, control_plane_url: str) -> None:
        self._base = control_plane_url.rstrip("/")
        self._http = requests.Session()
        self._http.trust_env = not _is_loopback(self._base)  # no proxy on the way to ourselves

    def post(self, path: str, token: str, payload: str | dict[str, Any]) -> Answer:
        """Send once. Never raises for what the network or the other side does."""
        body = payload if isinstance(payload, str) else json.dumps(payload)
        try:
            response = self._http.post(
                self._base + path,
                data=body.encode(),
                headers={"Content-Type": "application/json"},
                auth=_Bearer(token),
                timeout=_TIMEOUTS_S,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            log.info("no answer from the control plane: POST %s: %s", path, type(error).__name__)
            return Answer(0, {})
        try:
            answer = response.json()
        except ValueError:
            answer = {}
        if not response.ok:
            log.info("POST %s: %s %s", path, response.status_code, str(answer)[:300])
        return Answer(response.status_code, answer if isinstance(answer, dict) else {})
