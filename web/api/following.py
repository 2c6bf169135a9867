"""What is followed: events and output, as pages that become server-sent events."""

from __future__ import annotations

import base64
import codecs
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import request

from web.api.queries import NUMBER_MAX
from web.errors import InvalidRequest

LAST_EVENT_ID = "Last-Event-ID"
EVENTS_AT_ONCE = 100
#: Of the output: half a mebibyte at most, which JSON may make longer.
CHUNKS_AT_ONCE = 8
#: A character has four bytes at most, so it began in one of the four chunks before, however small they are.
_CHUNKS_OF_A_CHARACTER = 4
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)

#: The parameter of every route that can be followed, for the document.
PARAMETER: dict[str, Any] = {
    "in": "header",
    "name": LAST_EVENT_ID,
    "description": "of a stream: the `id` that was seen last, sent by a client that connects again; it wins over `after`",
    "schema": {"type": "string"},
}

#: A page after a place: the rows, and the place after them.
Page = Callable[[Any], tuple[Sequence[Mapping[str, Any]], Any]]


def last_event_id() -> str | None:
    """What a client that connects again says it saw last."""
    return request.headers.get(LAST_EVENT_ID) or None


def number_after(after: int) -> int:
    """The number to go on after: the client's last one, else ``after``. Raises ``InvalidRequest``."""
    said = last_event_id()
    if said is None:
        return after
    if not _NUMBER.fullmatch(said) or int(said) > NUMBER_MAX:
        raise InvalidRequest(
            f"{LAST_EVENT_ID} is not one of ours", fields={LAST_EVENT_ID: "is no number of this stream"}
        )
    return int(said)


def frame(place: object, kind: str | None = None, data: Mapping[str, Any] | None = None) -> bytes:
    """One event as it is sent. Without ``data`` nothing happens at the client, which only remembers the place."""
    lines = [f"id: {place}"]
    if data is not None:
        lines += [f"event: {kind}", f"data: {json.dumps(data)}"]
    return ("\n".join(lines) + "\n\n").encode()


class EventSource:
    """The events after a place. It begins with the place itself: who loses the connection before the first event came
    goes on there, and not at what is then the end."""

    def __init__(self, page: Page, after: object, *, place: str) -> None:
        self._page = page
        self._after = after
        self._place = place
        self._begun = False

    def __call__(self) -> tuple[bytes, bool]:
        """What is new; it never ends by itself, for a task may be run again."""
        if not self._begun:
            self._begun = True
            return frame(self._after), False
        events, self._after = self._page(self._after)
        return b"".join(frame(event[self._place], event["kind"], event) for event in events), False


class LogSource:
    """The output after a chunk, as text. A character that was cut in two comes whole, with the chunk that ends it."""

    def __init__(self, page: Callable[[int, int], Mapping[str, Any]], after: int) -> None:
        self._page = page
        self._after = after
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        if after:
            # What the last chunk that was seen left unsaid.
            before = page(max(0, after - _CHUNKS_OF_A_CHARACTER), min(after, _CHUNKS_OF_A_CHARACTER))
            for chunk in before["chunks"]:
                if chunk["number"] <= after:
                    self._decode(chunk)

    def __call__(self) -> tuple[bytes, bool]:
        """What is new; after the last chunk of a session that is over, the end."""
        found = self._page(self._after, CHUNKS_AT_ONCE)
        if found["chunks"]:
            self._after = found["next"]
            return b"".join(
                frame(chunk["number"], "log", {"number": chunk["number"], "text": self._decode(chunk)})
                for chunk in found["chunks"]
            ), False
        if found["ended"]:
            rest = self._decoder.decode(b"", final=True)
            return frame(self._after, "end", {"number": self._after, "text": rest}), True
        return b"", False

    def _decode(self, chunk: Mapping[str, Any]) -> str:
        return self._decoder.decode(base64.b64decode(chunk["data"]))
