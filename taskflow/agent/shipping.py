"""Sending a session's output while it grows: numbered chunks with fixed borders, one after the other.

The borders of a chunk are stored before it is first sent, so a number means the same bytes in each attempt, also in one
made after a restart.
"""

from __future__ import annotations

import base64
import logging
import threading
from pathlib import Path

from taskflow import protocol
from taskflow.agent.store import Chunk, Session, Store
from taskflow.agent.wire import Key, Wire, wait_s

log = logging.getLogger(__name__)

_POLL_S = 0.2


def output_size(path: Path) -> int:
    """Bytes in an output file; 0 while there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class Shipper:
    """Sends one session's output in a thread of its own; ends once the session ended and all is sent or refused."""

    def __init__(self, store: Store, wire: Wire, session: Session, output: Path) -> None:
        self._store = store
        self._wire = wire
        self._session_id = session.id
        self._workspace_id = session.workspace_id
        self._output = output
        self._path = protocol.route(
            protocol.CALLBACK_SESSION_LOGS, workspace_id=session.workspace_id, session_id=session.id
        )
        self._attempts = 0
        self._closed = threading.Event()

    def close(self) -> None:
        """Send nothing more; ``run`` returns soon."""
        self._closed.set()

    def run(self) -> bool:
        """Send until done. True when the session's outcome may follow, False when closed."""
        while not self._closed.is_set():
            try:
                if self._step():
                    return True
            except Exception:
                if self._closed.is_set():
                    return False  # the workspace was removed under us, as it should be
                log.exception("sending the output of %s", self._session_id)
                self._closed.wait(1.0)
        return False

    def _step(self) -> bool:
        """Send or wait a little. True once all is sent or refused."""
        session = self._store.session(self._session_id)
        workspace = self._store.workspace(self._workspace_id)
        if session is None or workspace is None:
            self._closed.set()
            return False
        given_up = session.logs_dropped or workspace.silenced
        chunk = None if given_up else self._next(session)
        if chunk is not None:
            self._closed.wait(self._send(chunk, workspace.key))
            return False
        if session.status == "ended":
            return True
        self._closed.wait(_POLL_S)
        return False

    def _next(self, session: Session) -> Chunk | None:
        chunk = self._store.next_chunk(self._session_id)
        if chunk is None and session.status != "ended":
            self._store.cut_chunk(self._session_id, output_size(self._output), protocol.LOG_CHUNK_BYTES_MAX)
            chunk = self._store.next_chunk(self._session_id)
        return chunk

    def _send(self, chunk: Chunk, key: Key) -> float:
        """One attempt. Returns the seconds to wait before the next thing is sent."""
        with self._output.open("rb") as file:
            file.seek(chunk.start)
            data = file.read(chunk.length)
        payload = {"number": chunk.number, "data": base64.b64encode(data).decode()}
        answer = self._wire.post(self._path, key, payload)
        wanted = answer.body.get("next")
        if answer.accepted and (isinstance(wanted, int) and wanted > chunk.number):
            self._store.chunks_wanted_from(self._session_id, wanted)
            self._attempts = 0
            return 0.0
        if answer.accepted and isinstance(wanted, int) and 1 <= wanted < chunk.number:
            # It lost chunks it had acknowledged: go back, but not in a tight loop with a confused receiver.
            self._store.chunks_wanted_from(self._session_id, wanted)
        elif answer.status == 401 and self._was_renewed(key):
            return 0.0
        elif answer.final:
            log.warning("log chunk %s of %s refused for good: %s", chunk.number, self._session_id, answer.status)
            self._store.drop_logs(self._session_id)
            if answer.over:
                self._store.silence(self._workspace_id)
            return 0.0
        self._attempts += 1
        return wait_s(self._attempts - 1)

    def _was_renewed(self, key: Key) -> bool:
        """Whether the token was replaced while it was refused: then the new one is to be tried."""
        workspace = self._store.workspace(self._workspace_id)
        return workspace is not None and workspace.key != key
