"""The agent as a whole: wires the parts, serves, and says when to end."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from taskflow.agent import heartbeat, lifeline, server
from taskflow.agent.api import create_app
from taskflow.agent.clock import PlaneClock
from taskflow.agent.dead_man import DeadMan, power_off
from taskflow.agent.ending import Ending
from taskflow.agent.isolation import Isolation
from taskflow.agent.jobs import Jobs
from taskflow.agent.marks import mark_children
from taskflow.agent.outbox import Outbox
from taskflow.agent.places import Places, lock_root, private_directory, read_json, read_order, write_json
from taskflow.agent.problems import StartRefused
from taskflow.agent.processes import start_ticks
from taskflow.agent.sessions import Sessions
from taskflow.agent.store import Store
from taskflow.agent.tokens import Tokens
from taskflow.agent.wire import Answer, Wire
from taskflow.agent.workspaces import Locks, Workspaces

log = logging.getLogger(__name__)

_STOP_ALL_LIMIT_S = 10.0


def _stay() -> None:
    """The machine goes on, for whoever else uses it."""


class Node:
    """One running agent."""

    def __init__(
        self,
        root: Path,
        control_plane_url: str,
        *,
        lifeline_file: str | None = None,
        port: int = 0,
        ca_file: str | None = None,
        log_end: Callable[[], str] = str,
    ) -> None:
        """Take the root, open the store and listen. ``log_end``: the end of what was logged. Raises ``StartRefused``."""
        root = root.resolve()
        if not root.is_dir():
            raise StartRefused(f"there is no directory {root}")
        if ca_file is not None and not Path(ca_file).is_file():
            raise StartRefused(f"there is no file {ca_file} with CA certificates")
        self._order = order = read_order(root)
        self._url = control_plane_url
        self.log_end = log_end
        self._lock = lock_root(root)
        self._places = Places(root)
        mark_children(root)
        private_directory(root / "workspaces")
        isolation = Isolation(self._places, isolate=order.isolate, image=order.container_image)
        self._lifeline = str(Path(lifeline_file).resolve()) if lifeline_file else None
        self._ended = Ending()
        self.boot_id = secrets.token_hex(8)
        self._context = server.tls_context(order.tls, root) if order.tls else None
        earlier = (read_json(self._places.address_file) or {}).get("port")
        self._listener = server.listen(
            order.listen_host, port or order.listen_port, earlier if isinstance(earlier, int) else None
        )
        self._port = int(self._listener.getsockname()[1])
        self._host = socket.gethostname()  # until a way to the control plane is found
        self._find_host()
        self._clock = PlaneClock()
        wires = partial(Wire, control_plane_url, self._clock, ca_file)
        self._store = Store(self._places.database)
        self._tokens = Tokens(self._store, order)
        self._outbox = Outbox(self._store, wires())
        jobs = Jobs()
        self.sessions = Sessions(self._store, self._places, self._outbox, jobs, wires, self._lifeline, isolation)
        self.workspaces = Workspaces(
            self._store, self._places, self._outbox, jobs, self.sessions, Locks(), order.slots, isolation
        )
        self.dead_man = DeadMan(
            self._store,
            order.dead_man_s,
            end_sessions=self.sessions.cut_off,
            afterwards=power_off if order.power_off else _stay,
        )
        self._heartbeat = heartbeat.Heartbeat(
            wires(),
            node_id=order.node_id,
            key=self._tokens.node_key,
            interval_s=order.heartbeat_interval_s,
            beat=self._fresh_beat,
            answered=self._answered,
            gone=self._gone,
        )

    @property
    def address(self) -> str:
        """Where the control plane reaches this agent, as far as it is known."""
        scheme = "https" if self._context else "http"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{scheme}://{host}:{self._port}"

    def _find_host(self) -> None:
        """Asks the resolver, so it is for the start and for the thread that sends heartbeats: no request waits for it."""
        found = self._order.advertise_host or server.advertised_host(self._order.listen_host, self._url)
        self._host = found or self._host

    def _fresh_beat(self) -> dict[str, Any]:
        self._find_host()  # a machine's address may change
        return self.beat()

    def beat(self) -> dict[str, Any]:
        """The node's state now, as ``HeartbeatSchema``."""
        return heartbeat.measure(
            boot_id=self.boot_id,
            address=self.address,
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
        web = server.AgentServer(self._listener, create_app(self, self._order, self._clock), self._context)
        self.sessions.resume()
        self.workspaces.resume()
        threading.Thread(target=web.start, name="http", daemon=True).start()
        write_json(
            self._places.address_file,
            {
                "pid": os.getpid(),
                "start_ticks": start_ticks(os.getpid()),
                "port": self._port,
                "address": self.address,
                "boot_id": self.boot_id,
            },
        )
        log.info("node %s at %s", self._order.node_id, self.address)
        self._outbox.start()
        self.dead_man.start()
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

    def _answered(self, answer: Answer, sent_at: float) -> None:
        if not answer.accepted:
            self.dead_man.unheard()
            return
        self.dead_man.heard(sent_at)
        self._tokens.take(answer.body)

    def _gone(self) -> None:
        """The control plane has no such node: nobody will ever ask for what runs here."""
        self.sessions.stop_all(_STOP_ALL_LIMIT_S)
        self.stop()

    def _supervisor_gone(self) -> None:
        log.error("the supervisor is gone")
        self.stop()
