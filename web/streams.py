"""Answers that go on: server-sent events, each over a thread of the server.

While somebody listens, one thread of the process asks every quarter of a second whether anything was committed, and wakes
the streams; each then reads its own page. Between two pages a stream holds a thread and nothing else.

A stream ends after ``TASKFLOW_STREAM_MAX_S``, when its token is no longer good, when a store fails, when the server stops,
and when its client is gone or does not read. The client connects again and says what it saw last, so no end loses anything.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import structlog
from flask import Response, current_app, request

from taskflow.clock import Clock, SystemClock
from taskflow.errors import InfrastructureError, Overloaded, TaskflowError, TooMany
from taskflow.settings import Settings
from web.auth import caller
from web.door import service

log = structlog.get_logger(__name__)

MIMETYPE = "text/event-stream"
#: A line that means nothing is sent after this silence, so that proxies keep the connection; the token is looked at then.
HEARTBEAT_S = 15.0
#: How often it is asked whether anything was committed.
POLL_S = 0.25
#: A client that takes nothing for this long is cut off.
STUCK_S = 30.0
#: How long a client waits before it connects again, in milliseconds, unless it has an opinion of its own.
RETRY_MS = 1000
_RETRY_AFTER_S = 5.0

#: What is new, in the form in which it is sent, and whether nothing comes after it.
Read = Callable[[], tuple[bytes, bool]]


class Watch(Protocol):
    """Whether anything was committed since it was asked last."""

    def changed(self) -> bool:
        """The first answer is True."""

    def close(self) -> None:
        """Let go of what it holds."""


class Streams:
    """The open streams of this process."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._changes = threading.Condition()
        self._open: set[Stream] = set()
        self._thread: threading.Thread | None = None
        self._stopping: Callable[[], bool] = lambda: False
        #: Counts the times at which something was committed.
        self.news = 0

    def stop_when(self, stopping: Callable[[], bool]) -> None:
        """End every stream once ``stopping`` is true."""
        self._stopping = stopping

    def open(
        self,
        read: Read,
        *,
        token_id: str,
        is_live: Callable[[], bool],
        watch: Callable[[], Watch],
        connection: socket.socket | None,
    ) -> Stream:
        """A further stream. Raises ``TooMany`` for the token, ``Overloaded`` when the process has no room."""
        with self._changes:
            self._look_at_clients()  # who connects again has just closed the stream before
            self._admit(token_id)
            stream = Stream(
                self, read, token_id, is_live, connection, self._clock, max_s=self._settings.stream_max_s
            )  # fmt: skip
            self._open.add(stream)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._listen, args=(watch,), name="streams", daemon=True)
                self._thread.start()
        return stream

    def _admit(self, token_id: str) -> None:
        most = self._settings.streams_per_token
        open_ones = [stream for stream in self._open if not stream.cut_off]
        if sum(stream.token_id == token_id for stream in open_ones) >= most:
            raise TooMany(
                f"this token has {most} open streams here", code="too_many_streams", retry_after_s=_RETRY_AFTER_S,
                advice="close one; the setting is TASKFLOW_STREAMS_PER_TOKEN", detail={"streams_per_token": most},
            )  # fmt: skip
        if self._stopping() or len(open_ones) >= self._settings.streams_max:
            raise Overloaded(
                "there is no room for a further stream here", code="no_room_for_streams", retry_after_s=_RETRY_AFTER_S,
                advice="ask again, or read pages; the setting is TASKFLOW_STREAMS_MAX",
                detail={"streams_max": self._settings.streams_max},
            )  # fmt: skip

    def wait(self, stream: Stream, seen: int, until: float) -> bool:
        """Wait for news after the ``seen``-th; False when there are none at ``until`` or the stream has to end."""
        with self._changes:
            while self.news == seen and not stream.cut_off and self._clock.monotonic() < until:
                self._changes.wait(POLL_S)
            return self.news != seen and not stream.cut_off

    def forget(self, stream: Stream) -> None:
        """Give the stream's place to others. Nothing here touches its connection afterwards."""
        with self._changes:
            self._open.discard(stream)

    def _listen(self, make: Callable[[], Watch]) -> None:
        """The thread: as long as there is a stream."""
        watch: Watch | None = None
        pause = threading.Event()
        while self._is_needed():
            try:
                watch = watch or make()
                changed = watch.changed()
            except InfrastructureError as error:  # the streams find out by themselves when they read
                log.warning("news_not_found", error=error.message)
                _close(watch)
                watch, changed = None, False
            with self._changes:
                self.news += changed
                self._changes.notify_all()
            pause.wait(POLL_S)
        _close(watch)

    def _is_needed(self) -> bool:
        """Look after the clients; whether there is a stream left to listen for."""
        with self._changes:
            self._look_at_clients()
            if not self._open:
                self._thread = None
            return bool(self._open)

    def _look_at_clients(self) -> None:
        """Cut off who is gone or stuck, and everybody at a stop."""
        stopping = self._stopping()
        for stream in self._open:
            stream.look(stopping=stopping)


def _close(watch: Watch | None) -> None:
    if watch is not None:
        with contextlib.suppress(Exception):  # what it watched may be broken
            watch.close()


class Stream:
    """The body of one answer. It is iterated by its request's thread, and looked at by the thread that listens."""

    def __init__(
        self,
        streams: Streams,
        read: Read,
        token_id: str,
        is_live: Callable[[], bool],
        connection: socket.socket | None,
        clock: Clock,
        *,
        max_s: float,
    ) -> None:
        self._streams = streams
        self._read = read
        self._is_live = is_live
        self._connection = connection
        self._clock = clock
        self._looked_at = clock.monotonic()
        self._ends_at = self._looked_at + max_s
        self._greeted = False
        self._over = False
        self._writing_since: float | None = None
        self.token_id = token_id
        #: It ends as soon as its thread sees this.
        self.cut_off = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._writing_since = None
        try:
            part = self._next_part()
        except TaskflowError as error:
            # Its status and headers are sent: all that can be said is the end. The next request is told the rest.
            log.warning("stream_broken", code=error.code, error=error.message)
            part = None
        if part is None:
            self._over = True
            raise StopIteration
        self._writing_since = self._clock.monotonic()
        return part

    def close(self) -> None:
        """Free its place, and the connection: kept alive it would make a stop wait. The server calls it at the end."""
        self._streams.forget(self)
        self._cut()

    def look(self, *, stopping: bool) -> None:
        """Cut it off at a stop, when its client is gone, or when a write to it waits for too long."""
        writing_since = self._writing_since
        waited_s = 0.0 if writing_since is None else self._clock.monotonic() - writing_since
        if stopping or self._is_gone():
            self.cut_off = True
        if waited_s > STUCK_S or (self.cut_off and waited_s > POLL_S):
            self.cut_off = True
            self._cut()  # the thread that writes gets an error

    def _next_part(self) -> bytes | None:
        """What is sent next, however long it takes to come; None: the end."""
        if not self._greeted:
            self._greeted = True
            return f"retry: {RETRY_MS}\n\n".encode()
        silent_until = self._clock.monotonic() + HEARTBEAT_S
        while not self._has_ended():
            seen = self._streams.news  # before it reads: what is committed meanwhile is news again
            part, self._over = self._read()
            if part:
                return part
            if self._over:
                return None
            if not self._streams.wait(self, seen, min(silent_until, self._ends_at)) and not self._has_ended():
                return b": \n\n"
        return None

    def _has_ended(self) -> bool:
        now = self._clock.monotonic()
        if self._over or self.cut_off or now >= self._ends_at:
            return True
        if now - self._looked_at >= HEARTBEAT_S:
            self._looked_at = now
            self._over = not self._is_live()
        return self._over

    def _is_gone(self) -> bool:
        if self._connection is None:
            return False
        poll = select.poll()
        try:
            poll.register(self._connection, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
            return bool(poll.poll(0))
        except (OSError, ValueError):
            return True

    def _cut(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)


def wanted() -> bool:
    """Whether this request asks for a stream rather than for JSON."""
    accepted = request.accept_mimetypes
    return accepted.best_match(("application/json", MIMETYPE)) == MIMETYPE


def stream(read: Read) -> Response:
    """The answer to this request: what ``read`` gives, as it comes. Raises ``TooMany`` and ``Overloaded``."""
    streams: Streams = current_app.extensions["taskflow.streams"]
    served, who = service(), caller()
    opened = streams.open(
        read, token_id=who.token_id, is_live=lambda: served.accounts.is_live(who), watch=served.events.watch,
        connection=request.environ.get("gunicorn.socket"),
    )  # fmt: skip
    response = Response(opened, mimetype=MIMETYPE)
    response.headers["X-Accel-Buffering"] = "no"  # a proxy that collects an answer would hold it back
    return response
