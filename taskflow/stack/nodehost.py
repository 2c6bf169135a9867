"""The node host: runs the agents of local nodes. It plays for them what systemd plays on a server.

Whoever provides local nodes writes ``nodes/<node>/order.json``; here an agent is started for it and kept alive. A file
``destroy`` in the directory asks for the end of the node: agent, shims and sessions are ended, its data is removed, and
``destroyed`` is left as the answer. Everything is read from the disk, so a node host that was killed goes on where it was.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taskflow.agent.ending import Ending
from taskflow.clock import Clock, SystemClock
from taskflow.errors import InfrastructureError
from taskflow.file_lock import FileLock
from taskflow.files import write_json
from taskflow.logs import get_logger
from taskflow.settings import Settings
from taskflow.stack import leftovers, ports
from taskflow.stack.data_dir import DataDir
from taskflow.stack.environment import LIFELINE, child_environment
from taskflow.stack.keeper import Keeper, StackEvent
from taskflow.stack.process import ProcessSpec, SupervisedProcess

log = get_logger(__name__)

ORDER, DESTROY, DESTROYED = "order.json", "destroy", "destroyed"
POLL_S = 0.1
AGENT_STOP_S = 5.0
DESTROYED_KEPT_S = 86_400.0

AgentArgv = Callable[[Path, str, Path], list[str]]


def agent_argv(root: Path, control_plane_url: str, lifeline: Path) -> list[str]:
    """The command line of the agent of the node in ``root``."""
    return [
        sys.executable, "-m", "taskflow.agent", "--root", str(root),
        "--control-plane-url", control_plane_url, "--lifeline", str(lifeline),
    ]  # fmt: skip


def control_plane_url(settings: Settings) -> str:
    """Where agents on this machine reach the web process."""
    return settings.public_url or f"http://{ports.reachable_host(settings.host)}:{settings.port}"


class _Node:
    """One node directory: its agent while it is wanted, then its removal."""

    def __init__(self, host: NodeHost, root: Path) -> None:
        self._host = host
        self._root = root
        self._removal: threading.Thread | None = None
        spec = ProcessSpec(
            name=f"agent-{root.name}",
            argv=host.argv(root, control_plane_url(host.settings), host.lifeline),
            stop_signals=((signal.SIGTERM, AGENT_STOP_S),),
        )
        environ = child_environment(host.settings, host.lifeline, with_secrets=False)
        process = SupervisedProcess(spec, environ, root / "agent.log", root)
        self.keeper = Keeper(process, host.on_event, host.clock)

    def tick(self) -> None:
        """Bring the node one step nearer to what its directory asks for."""
        if (self._root / DESTROY).exists():
            if self._removal is None:
                self._end_agent()
            elif not self._removal.is_alive():
                self._removal = None  # it failed (else DESTROYED is there): again at the next tick
        elif self.keeper.state == "new":
            try:
                self.keeper.start()
            except InfrastructureError as error:
                self.keeper.pause(error.message)
        else:
            self.keeper.tick()

    def stop(self) -> None:
        """End the agent; its shims go on."""
        self.keeper.stopping()
        self.keeper.process.stop()
        if self._removal is not None:
            self._removal.join()

    def _end_agent(self) -> None:
        process = self.keeper.process
        self.keeper.stopping()
        # The node goes as a whole, so there is nothing an orderly end of its agent would save.
        process.kill()
        # In a thread, because a large tree takes a while and other nodes must not wait for it.
        self._removal = threading.Thread(target=self._remove, name=f"remove-{self._root.name}", daemon=True)
        self._removal.start()

    def _remove(self) -> None:
        try:
            left = leftovers.kill_all(lambda: leftovers.of_node(self._host.data_dir.root, self._root))
            if left:
                log.error("node_processes_left", node=self._root.name, pids=left)
            _clear(self._root)
            write_json(self._root / DESTROYED, {"destroyed_at": self._host.clock.now()})
            log.info("node_destroyed", node=self._root.name)
        except OSError as error:
            log.warning("node_removal_failed", node=self._root.name, error=str(error))


class NodeHost:
    """All local nodes of one data directory. Everything but removals happens in the thread that calls ``run``."""

    def __init__(
        self, settings: Settings, lifeline: Path, *, argv: AgentArgv = agent_argv, clock: Clock | None = None
    ) -> None:
        self.settings = settings
        self.data_dir = DataDir(settings)
        self.lifeline = lifeline
        self.argv = argv
        self.clock = clock or SystemClock()
        self._nodes: dict[Path, _Node] = {}

    def run(self, ended: Ending) -> None:
        """Look after the nodes until ``ended`` is set; then stop the agents."""
        try:
            while not ended.wait(POLL_S):
                self.tick()
        finally:
            for node in self._nodes.values():
                node.stop()

    def tick(self) -> None:
        """One look at every node directory."""
        for root in sorted(self.data_dir.nodes.iterdir()):
            if (root / DESTROYED).exists():
                self._nodes.pop(root, None)
                self._forget_old(root)
            elif root in self._nodes:
                self._nodes[root].tick()
            elif (root / ORDER).exists() or (root / DESTROY).exists():
                self._nodes[root] = _Node(self, root)
                self._nodes[root].tick()

    def on_event(self, event: StackEvent) -> None:
        """Log what happens to agents."""
        bad = event.kind in ("died", "not_ready", "crash_loop")
        (log.warning if bad else log.info)(
            f"agent_{event.kind}", process=event.process, pid=event.pid, detail=event.detail
        )

    def _forget_old(self, root: Path) -> None:
        try:
            if self.clock.now() - (root / DESTROYED).stat().st_mtime > DESTROYED_KEPT_S:
                shutil.rmtree(root)
        except OSError as error:
            log.warning("node_forget_failed", node=root.name, error=str(error))


def _clear(root: Path) -> None:
    """Remove everything of a node but its markers; its log too, it may show what sessions did."""

    def open_up(function: Callable[..., Any], failed: str, _: Any) -> None:
        # A session may have made directories read-only.
        Path(failed).parent.chmod(stat.S_IRWXU)
        if Path(failed).is_dir() and not Path(failed).is_symlink():
            Path(failed).chmod(stat.S_IRWXU)
            shutil.rmtree(failed)
        else:
            function(failed)

    for entry in root.iterdir():
        if entry.name in (DESTROY, DESTROYED):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, onerror=open_up)
        else:
            entry.unlink(missing_ok=True)


def main(settings: Settings) -> int:
    """``taskflow nodehost``: serve until SIGTERM or SIGINT. Main thread only. Returns the exit status.

    Raises ``InfrastructureError`` when another node host serves the data directory.
    """
    data_dir = DataDir(settings)
    lock = FileLock(data_dir.run / "nodehost.lock")
    if not lock.acquire(wait_s=10.0):  # a predecessor may still be ending its agents
        raise InfrastructureError(
            f"another node host serves {data_dir.root}",
            code="already_serving",
            advice="stop it, or set TASKFLOW_DATA_DIR to another directory",
        )
    ended = Ending()
    ended.on_signals(signal.SIGTERM, signal.SIGINT)
    own: FileLock | None = None
    given = os.environ.get(LIFELINE)
    if not given:
        # Nobody supervises us: sessions live as long as this node host does.
        own = FileLock(data_dir.root / "nodehost.lifeline")
        own.acquire(wait_s=1.0)
    record = data_dir.run / "nodehost.json"
    try:
        write_json(record, {"pid": os.getpid()})
        NodeHost(settings, Path(given) if given else data_dir.root / "nodehost.lifeline").run(ended)
    finally:
        record.unlink(missing_ok=True)
        if own:
            own.release()
        lock.release()
    return 0
