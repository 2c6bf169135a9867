"""How the command line reaches a server: its address and token, timeouts, retries, and what an answer means."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from urllib3.exceptions import NameResolutionError, NewConnectionError

from taskflow.cli.problems import FAILED, NO_SERVER, NOT_FOUND, USAGE, CommandError, NoServer
from taskflow.clock import Clock, SystemClock

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 15.0
#: How long a command waits for a server that does not answer; a web process that restarts is back sooner.
PATIENCE_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0
_AWAY = (429, 502, 503, 504)
#: A stream that is silent for longer is broken: the server says something every 15 seconds.
STREAM_SILENCE_S = 40.0
_STREAM = "text/event-stream"
_NO_ROOM = ("too_many_streams", "no_room_for_streams")

#: Places and events of a stream.
Frames = Iterator[tuple[str, dict[str, Any] | None]]


@dataclass(frozen=True)
class Target:
    """A server and the token for it."""

    url: str
    token: str = dataclasses.field(repr=False)

    @property
    def is_loopback(self) -> bool:
        """True when it is on this machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True)
class _Asked:
    """What is asked of the server. ``what``: that in words."""

    what: str
    method: str
    path: str
    body: Mapping[str, Any] | None = None
    query: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


class _Bearer(AuthBase):
    """Sets the header itself: as a plain header, an entry of a .netrc would replace it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Transport:
    """The server at ``target``. Raises ``NoServer`` when nobody answers within ``patience_s`` seconds, and
    ``CommandError`` with the server's own words when it refuses.

    ``timeout_s``: the longest wait for one answer, where it is to be shorter than usual.
    ``relocate``: where the server is now, when it may have moved (a stack that was started again).
    """

    def __init__(
        self,
        target: Target,
        *,
        patience_s: float | None = None,
        timeout_s: float | None = None,
        clock: Clock | None = None,
        relocate: Callable[[], Target | None] | None = None,
    ) -> None:
        self.target = target
        self.patience_s = PATIENCE_S if patience_s is None else patience_s
        self._timeout_s = (min(CONNECT_TIMEOUT_S, timeout_s or CONNECT_TIMEOUT_S), timeout_s or READ_TIMEOUT_S)
        self._clock = clock or SystemClock()
        self._relocate = relocate
        self._session = requests.Session()
        # Proxies are for what lies outside of this machine.
        self._session.trust_env = not target.is_loopback

    def close(self) -> None:
        """Let go of connections."""
        self._session.close()

    def look_again(self) -> bool:
        """Find out where the server is now; True when it moved or its token changed."""
        found = self._relocate() if self._relocate else None
        if found is None or found == self.target:
            return False
        self.target = found
        return True

    def _call(
        self,
        what: str,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The answer; asked again while nobody answers, so only what may be repeated. ``what``: for an error."""
        asked = _Asked(what, method, path, body, query, headers or {})
        end = self._clock.monotonic() + self.patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return self._answer(asked)
            except NoServer:
                if self._clock.monotonic() + pause_s > end:
                    raise
            # Jittered: many commands may wait for the same server.
            self._clock.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret is made of it
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _once(self, what: str, method: str, path: str, *, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer; not asked again."""
        return self._answer(_Asked(what, method, path, body))

    def _stream(self, what: str, path: str, query: Mapping[str, Any]) -> Frames | None:
        """The frames of a stream, each a place and an event, the event None where only the place is said. None: there is
        no room for a stream, or something between here and the server knows none.

        The connection is made before this returns. Raises ``NoServer``, also while it is read.
        """
        asked = _Asked(what, "GET", path, query=query, headers={"Accept": _STREAM})
        where, answer = self._send(asked, silence_s=STREAM_SILENCE_S)
        if answer.ok and answer.headers.get("Content-Type", "").startswith(_STREAM):
            return _frames(what, where, answer)
        with contextlib.closing(answer):
            try:
                _checked(what, where, answer)
            except CommandError as error:
                if error.code not in _NO_ROOM:
                    raise
        return None

    def _answer(self, asked: _Asked) -> dict[str, Any]:
        return _checked(asked.what, *self._send(asked))

    def _send(self, asked: _Asked, *, silence_s: float | None = None) -> tuple[str, requests.Response]:
        """What was asked, for people, and the answer. ``silence_s``: it is read as it comes, with silences that long."""
        url = self.target.url.rstrip("/") + asked.path
        where = f"{asked.method} {url}"
        connect_s, read_s = self._timeout_s
        try:
            answer = self._session.request(
                asked.method, url, json=asked.body, params=asked.query,
                headers={"Accept": "application/json", **asked.headers},
                auth=_Bearer(self.target.token), timeout=(connect_s, silence_s or read_s), allow_redirects=False,
                stream=silence_s is not None,
            )  # fmt: skip
        except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema):
            raise CommandError(
                "TASKFLOW_URL is wrong", f"{self.target.url!r} is no http:// or https:// address", exit_code=USAGE
            ) from None
        except requests.RequestException as error:
            raise NoServer(
                asked.what, _why(error), where=where,
                advice=None if isinstance(error, requests.exceptions.SSLError)
                else "is the server running? start one with: taskflow up",
            ) from error  # fmt: skip
        return where, answer


def _frames(what: str, where: str, answer: requests.Response) -> Frames:
    """The frames of a stream: place and event."""
    # In the pieces in which it comes; where those have no lengths, waiting for more would hold back what is there.
    chunked = answer.headers.get("Transfer-Encoding", "").lower() == "chunked"
    place, data = "", b""
    try:
        for line in answer.iter_lines(None if chunked else 1):
            name, _, value = line.partition(b": ")
            if name == b"id":
                place = value.decode()
            elif name == b"data":
                data = value
            elif not line and place:  # now the frame is whole
                yield place, json.loads(data) if data else None
                data = b""
    except (requests.RequestException, ValueError) as error:
        why = _why(error) if isinstance(error, requests.RequestException) else "it sent what is no event"
        raise NoServer(what, why, where=where) from error
    finally:
        answer.close()


def _checked(what: str, where: str, answer: requests.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if answer.ok and isinstance(found, dict) and answer.status_code < 300:
        return found
    said = found.get("error") if isinstance(found, dict) else None
    status = answer.status_code
    if not isinstance(said, dict) or not said.get("message"):
        why = f"it answered {status} {answer.reason}, which is no answer of taskflow"
        if status in _AWAY:
            raise NoServer(what, why, where=where, status=status, advice=_BEHIND)
        raise CommandError(what, why, where=where, status=status, advice=_WHOSE)
    why = str(said["message"])
    kwargs: dict[str, Any] = {
        "where": where, "status": status, "code": said.get("code"), "fields": said.get("fields"),
        "advice": said.get("advice") or _advice(status, said.get("request_id")), "detail": said.get("detail"),
    }  # fmt: skip
    if status in _AWAY:
        # A limit is asked again too, but it is the server that says so.
        raise NoServer(what, why, exit_code=FAILED if status == 429 else NO_SERVER, **kwargs)
    raise CommandError(what, why, exit_code=_EXIT_OF_STATUS.get(status, FAILED), **kwargs)


_EXIT_OF_STATUS = {400: USAGE, 404: NOT_FOUND, 413: USAGE, 415: USAGE, 422: USAGE}
_BEHIND = "something before it answers; does the web process run?"
_WHOSE = "is TASKFLOW_URL the address of a taskflow, without a path?"


def _advice(status: int, request_id: object) -> str | None:
    if status == 401:
        return "set TASKFLOW_TOKEN to a token of this server; one is made there with: taskflow token create"
    return f"the server's log has it under request {request_id}" if request_id and status >= 500 else None


def _why(error: requests.RequestException) -> str:
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "the TLS connection failed: it speaks no TLS, or its certificate is not one that is trusted here"
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(reason, NameResolutionError):
        return "there is no host of that name"
    if isinstance(reason, NewConnectionError):
        return "nobody listens there"
    return "the connection broke"
