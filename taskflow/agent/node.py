"""The agent as a whole: wires the parts, serves, and says when to end."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from pathlib import Path
from typing import Any

from waitress import create_server

from taskflow.agent import heartbeat, lifeline
from taskflow.agent.api import create_app
from taskflow.agent.ending import Ending
from taskflow.agent.isolation import Isolation
from taskflow.agent.jobs import Jobs
from taskflow.agent.outbox import Outbox
from taskflow.agent.places import Places, lock_root, private_directory, read_json, read_order, write_json
from taskflow.agent.problems import StartRefused
from taskflow.agent.sessions import Sessions
from taskflow.agent.store import Store
from taskflow.agent.wire import Wire
from taskflow.agent.workspaces import Locks, Workspaces

log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_THREADS = 8
_STOP_ALL_LIMIT_S = 10.0


def _listen(asked: int, earlier: int | None) -> socket.socket:
    """A listening socket on the asked port, else on the earlier one if it is free, else on any."""
    for port in [asked] if asked else [earlier or 0, 0]:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
            listener.listen(64)
            return listener
        except OSError as error:
            listener.close()
            if asked:
                raise StartRefused(f"cannot listen on {_HOST}:{asked}: {error.strerror}") from error
    raise StartRefused(f"cannot listen on {_HOST}")


class Node:
    """One running agent."""

    def __init__(self, root: Path, control_plane_url: str, *, lifeline_file: str | None = None, port: int = 0) -> None:
        """Take the root, open the store and listen. Raises ``StartRefused``."""
        root = root.resolve()
        if not root.is_dir():
            raise StartRefused(f"there is no directory {root}")
        self._order = read_order(root)
        self._lock = lock_root(root)
        self._places = Places(root)
        private_directory(root / "workspaces")
        isolation = Isolation(self._places, isolate=self._order.isolate, image=self._order.container_image)
        self._lifeline = str(Path(lifeline_file).resolve()) if lifeline_file else None
        self._ended = Ending()
        self.boot_id = secrets.token_hex(8)
        earlier = (read_json(self._places.address_file) or {}).get("port")
        self._listener = _listen(port, earlier if isinstance(earlier, int) else None)
        self._port = int(self._listener.getsockname()[1])
        self._address = f"http://{_HOST}:{self._port}"
        self._store = Store(self._places.database)
        self._outbox = Outbox(self._store, Wire(control_plane_url))
        jobs = Jobs()
        self.sessions = Sessions(
            self._store, self._places, self._outbox, jobs, control_plane_url, self._lifeline, isolation
        )
        self.workspaces = Workspaces(
            self._store, self._places, self._outbox, jobs, self.sessions, Locks(), self._order.slots, isolation
        )
        self._heartbeat = heartbeat.Heartbeat(
            Wire(control_plane_url),
            node_id=self._order.node_id,
            token=self._order.callback_token,
            interval_s=self._order.heartbeat_interval_s,
            beat=self.beat,
            gone=self._gone,
        )

    def beat(self) -> dict[str, Any]:
        """The node's state now, as ``HeartbeatSchema``."""
        return heartbeat.measure(
            boot_id=self.boot_id,
            address=self._address,
            root=self._places.root,
            workspaces=self.workspaces.live(),
            sessions=self.sessions.progress(),
        )

    def run(self) -> None:
        """Serve until ``stop``; main thread only. Sessions that run then go on; their shims outlive the agent."""
        if self._lifeline is not None:
            try:
                lifeline.watch(Path(self._lifeline), self._supervisor_gone)
            except OSError as error:
                raise StartRefused(f"cannot open the lifeline: {error}") from error
        server = create_server(
            create_app(self, self._order.agent_token), sockets=[self._listener], threads=_THREADS, ident=None
        )
        self.sessions.resume()
        self.workspaces.resume()
        threading.Thread(target=server.run, name="http", daemon=True).start()
        write_json(
            self._places.address_file,
            {"pid": os.getpid(), "port": self._port, "address": self._address, "boot_id": self.boot_id},
        )
        log.info("node %s at %s", self._order.node_id, self._address)
        self._outbox.start()
        self._heartbeat.start()
        self._ended.wait()
        self._heartbeat.close()
        self._listener.close()

    def stop_on(self, *numbers: signal.Signals) -> None:
        """Let these signals stop it. Main thread only."""
        self._ended.on_signals(*numbers)

    def stop(self) -> None:
        """Let ``run`` return."""
        self._ended.set()

    def _gone(self) -> None:
        """The control plane has no such node: nobody will ever ask for what runs here."""
        self.sessions.stop_all(_STOP_ALL_LIMIT_S)
        self.stop()

    def _supervisor_gone(self) -> None:
        log.error("the supervisor is gone")
        self.stop()
