"""The end of what this agent logged, in its memory: its file may be the journal's, and its node about to be destroyed."""

from __future__ import annotations

import logging
from collections import deque


class Tail(logging.Handler):
    """Keeps the last ``limit_bytes`` of lines."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self._limit_bytes = limit_bytes
        self._lines: deque[bytes] = deque()
        self._size = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, and let the oldest go."""
        try:
            line = f"{self.format(record)}\n".encode(errors="replace")
        except Exception:  # as every handler: a line that can't be written ends nothing
            self.handleError(record)
            return
        if len(line) > self._limit_bytes:
            line = line[-self._limit_bytes :].partition(b" ")[2]  # whole words: half a secret is known to nobody
        self._lines.append(line)
        self._size += len(line)
        while self._size > self._limit_bytes:
            self._size -= len(self._lines.popleft())

    def text(self) -> str:
        """What is kept."""
        self.acquire()
        try:
            return b"".join(self._lines).decode(errors="replace")
        finally:
            self.release()
