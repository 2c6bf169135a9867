"""Events as they come: over a stream of the server, or page by page where it has no room for one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from taskflow.cli.client import Api
from taskflow.cli.problems import CommandError
from taskflow.clock import Clock, SystemClock

#: How long after the end of a stream the next one is asked for: ends that come at once must not make a busy loop.
_AGAIN_S = 1.0
#: How often a page is asked for where there is no stream.
_PAGE_S = 1.0

#: A place, and the event there if there is one; what went wrong; None at the end of the stream.
_Came = tuple[str, Mapping[str, Any] | None] | CommandError | None


class EventStream:
    """The events after a place, of a task, run or node, or (``thing_id`` None) of everything.

    What comes is read by a thread of its own and taken by its user, who is never kept waiting by the network but when a
    connection is made. Raises ``CommandError`` when that can't be. ``after``: the place of what was taken last.
    """

    def __init__(self, api: Api, thing_id: str | None, after: str, *, clock: Clock | None = None) -> None:
        self._api = api
        self._thing_id = thing_id
        self._clock = clock or SystemClock()
        self._came: deque[_Came] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._in_pages = False
        self.after = after
        self._open()

    def wait(self, timeout_s: float) -> None:
        """Until there is something to take, at most ``timeout_s`` seconds."""
        if self._in_pages:
            self._clock.sleep(min(timeout_s, _PAGE_S))
            return
        with self._changed:
            self._changed.wait_for(lambda: bool(self._came), timeout_s)

    def take(self) -> Mapping[str, Any] | None:
        """The next event, None when none is there. Raises ``CommandError`` once the server is gone: a new stream goes on
        at ``after``."""
        if self._in_pages and not self._came:
            self._came.extend(self._page())
        while self._came:
            came = self._came.popleft()
            if isinstance(came, CommandError):
                raise came
            if came is None:
                self._clock.sleep(_AGAIN_S)
                self._open()
                continue
            self.after, event = came
            if event is not None:
                return event
        return None

    def close(self) -> None:
        """Take no more; the thread sees it when something comes next."""
        self._closed = True

    def _open(self) -> None:
        found = self._api.stream(self._thing_id, self.after)
        self._in_pages = found is None
        if found is not None:
            threading.Thread(target=self._read, args=(found,), name="events", daemon=True).start()

    def _read(self, found: Iterator[tuple[str, Mapping[str, Any] | None]]) -> None:
        """The thread: to the end of one stream."""
        try:
            for one in found:
                if self._closed:
                    return
                self._put(one)
            self._put(None)
        except CommandError as error:
            self._put(error)

    def _put(self, came: _Came) -> None:
        with self._changed:
            self._came.append(came)
            self._changed.notify()

    def _page(self) -> list[_Came]:
        if self._thing_id is None:
            page = self._api.feed(self.after)
            return [*((str(event["cursor"]), event) for event in page["events"]), (str(page["next"]), None)]
        page = self._api.events(self._thing_id, int(self.after))
        return [(str(event["seq"]), event) for event in page["events"]]
